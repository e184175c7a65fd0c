--[[
Reorder the next part of the queue after a change of policy: from where the last call ended, oldest
first. A job's time of acceptance never changes, so no job is skipped.

KEYS  the queue's (include/queue.lua)
ARGV  the queue's, then
  limit (jobs)
RETURNS
  how many jobs were looked at; 0: the queue is in order
]]
--@include queue
--@include record
local limit = tonumber((unpack(ARGV, 5, 5)))
local meta = redis.call("HMGET", queue.meta, "reorder", "active")
local from, active = meta[1], meta[2] or "sjf"
if not from then
  return 0
end
local page = redis.call("ZRANGEBYSCORE", queue.accepted, from, "+inf", "WITHSCORES", "LIMIT", 0, limit)
if #page == 2 * limit and page[2] == page[#page] then -- all of one instant: take every job of it
  page = redis.call("ZRANGEBYSCORE", queue.accepted, from, page[2], "WITHSCORES")
  redis.call("HSET", queue.meta, "reorder", "(" .. page[2])
elseif #page == 2 * limit then
  redis.call("HSET", queue.meta, "reorder", page[#page])
else
  redis.call("HDEL", queue.meta, "reorder")
end
for i = 1, #page, 2 do
  local job = queue.prefix .. "job:" .. page[i]
  local record = redis.pcall("HMGET", job, "tenant", "times", "price")
  local known = not record.err
  local since = read_times(known and record[2])
  local _, _, slack, offset = read_price(known and record[3])
  if since and offset and record[1] then
    local due = since + (active == "sjf" and slack or offset)
    redis.call("HSET", job, "due_ms", ms(due))
    redis.call("ZADD", queue.prefix .. "ready:" .. record[1], "XX", due, page[i])
  end
end
return #page / 2
