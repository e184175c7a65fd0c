--[[
Put the next part of the line in order, after a change of policy: from where the last call ended,
oldest first. A job's time of acceptance never changes, so no job loses its place in that order.

KEYS  the line's (include/line.lua)
ARGV  the line's, then
  limit (jobs)
RETURNS
  how many were looked at; 0: the line is in order
]]
--@include line
local limit = tonumber((unpack(ARGV, 5)))
local meta = redis.call("HMGET", line.meta, "reorder", "active")
local from, active = meta[1], meta[2] or "sjf"
if not from then
  return 0
end
local page = redis.call("ZRANGEBYSCORE", line.accepted, from, "+inf", "WITHSCORES", "LIMIT", 0, limit)
if #page == 2 * limit and page[2] == page[#page] then -- as many of one instant: take them all
  page = redis.call("ZRANGEBYSCORE", line.accepted, from, page[2], "WITHSCORES")
  redis.call("HSET", line.meta, "reorder", "(" .. page[2])
elseif #page == 2 * limit then
  redis.call("HSET", line.meta, "reorder", page[#page])
else
  redis.call("HDEL", line.meta, "reorder")
end
for i = 1, #page, 2 do
  local job = line.prefix .. "job:" .. page[i]
  local record = redis.pcall("HMGET", job, "tenant", "since_ms", "slack_ms", "offset_ms")
  if not record.err and record[1] and tonumber(record[2]) and tonumber(record[3]) and tonumber(record[4]) then
    local due = record[2] + tonumber(active == "sjf" and record[3] or record[4])
    redis.call("HSET", job, "due_ms", string.format("%.3f", due))
    redis.call("ZADD", line.prefix .. "ready:" .. record[1], "XX", due, page[i])
  end
end
return #page / 2
