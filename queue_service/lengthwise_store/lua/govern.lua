--[[
Change how a queue is run: its mode, its policy, and whether the policy is suspended.

KEYS  the queue's (include/queue.lua)
ARGV  the queue's, then
  mode ("open", "paused", "draining"), policy ("sjf", "fcfs", "shadow"),
  fallback ("1": serve in order of acceptance, "0": by the policy),
  judged (how many jobs had succeeded when the predictor was judged); each "" to leave it unchanged
RETURNS
  {mode, active policy, "1": the waiting jobs must be reordered by `reorder`}
]]
--@include queue
local mode, policy, fallback, judged = unpack(ARGV, 5, 8)
for name, value in pairs({mode = mode, policy = policy, fallback = fallback, judged = judged}) do
  if value ~= "" then
    redis.call("HSET", queue.meta, name, value)
  end
end
if mode ~= "" then -- a removal that was interrupted is given up
  redis.call("HDEL", queue.meta, "removing")
end
if policy ~= "" then -- its settings were written, so the queue exists
  redis.call("HSETNX", queue.meta, "created", string.format("%.0f", now))
  if redis.call("HDEL", queue.meta, "removed") == 1 then -- one of that name was removed a moment ago
    redis.call("HSET", queue.meta, "mode", "open")
    redis.call("PERSIST", queue.meta)
  end
end
local meta = redis.call("HMGET", queue.meta, "mode", "policy", "fallback", "active", "reorder")
local wanted = meta[2] or "sjf"
if wanted == "sjf" and meta[3] == "1" then
  wanted = "fcfs"
end
local was, reorder = meta[4] or "sjf", meta[5]
redis.call("HSET", queue.meta, "active", wanted)
if (was == "sjf") ~= (wanted == "sjf") then
  reorder = "-inf"
  redis.call("HSET", queue.meta, "reorder", reorder)
end
if mode == "paused" then
  redis.call("ZREM", queue.wake, "work")
elseif mode ~= "" and redis.call("EXISTS", queue.tenants) == 1 then
  redis.call("ZADD", queue.wake, 0, "work")
end
return {meta[1] or "open", wanted, reorder and "1" or "0"}
