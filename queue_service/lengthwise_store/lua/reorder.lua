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
--@include record
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
  local record = redis.pcall("HMGET", job, "tenant", "times", "price")
  local known = not record.err
  local since = read_times(known and record[2])
  local _, _, slack, offset = read_price(known and record[3])
  if since and offset and record[1] then
    local due = since + (active == "sjf" and slack or offset)
    redis.call("HSET", job, "due_ms", ms(due))
    redis.call("ZADD", line.prefix .. "ready:" .. record[1], "XX", due, page[i])
  end
end
return #page / 2
