--[[
Return the counters of a queue at one instant. Writes nothing.

KEYS  the queue's (include/queue.lua), then
  lengths      list  "predicted actual service_ms quantiles @seconds" of the last answers
  workers      zset  worker id -> last heartbeat, ms since the epoch
  worker_info  hash  worker id -> JSON
ARGV  the queue's, then
  tenants (how many to return, at most)
RETURNS
  {now_ms, depth, scheduled, in_flight, {name, value, ... of meta}, oldest since_ms or "",
   {lengths}, {worker JSON}, {worker, seen_ms, ...}, {tenant, depth, scheduled, dead, vt, ...}}
]]
--@include queue
local lengths, workers, worker_info = unpack(KEYS, 12, 14)
local most = tonumber((unpack(ARGV, 5, 5)))
local oldest = redis.call("ZRANGE", queue.accepted, 0, 0, "WITHSCORES")
local known, tenants = redis.call("HGETALL", queue.vt), {}
local waiting, vt = redis.call("ZRANGE", queue.tenants, 0, -1, "WITHSCORES"), {}
for i = 1, #known, 2 do
  vt[known[i]] = known[i + 1]
end
for i = 1, #waiting, 2 do
  vt[waiting[i]] = waiting[i + 1]
end
for tenant, time in pairs(vt) do
  if #tenants < 5 * most then
    for _, value in ipairs({tenant, redis.call("ZCARD", queue.prefix .. "ready:" .. tenant),
      redis.call("HGET", queue.scheduled, tenant) or "0",
      redis.call("ZCARD", queue.prefix .. "dead:" .. tenant), time}) do
      tenants[#tenants + 1] = tostring(value)
    end
  end
end
return {string.format("%.3f", now), redis.call("ZCARD", queue.accepted),
  redis.call("ZCARD", queue.delayed), redis.call("ZCARD", queue.leases),
  redis.call("HGETALL", queue.meta), oldest[2] or "", redis.call("LRANGE", lengths, 0, -1),
  redis.call("HVALS", worker_info), redis.call("ZRANGE", workers, 0, -1, "WITHSCORES"), tenants}
