--[[
Change how a queue is run: open, paused or draining; its policy; and whether that is suspended.

KEYS  the line's (include/line.lua)
ARGV  the line's, then
  mode ("open", "paused", "draining"), policy ("sjf", "fcfs", "shadow"),
  fallback ("1": serve in order of acceptance until told otherwise, "0"); each "" to leave it
RETURNS
  {mode, active policy, "1" when the waiting jobs must be put in order anew by `reorder`}
]]
--@include line
local mode, policy, fallback = unpack(ARGV, 5)
for name, value in pairs({mode = mode, policy = policy, fallback = fallback}) do
  if value ~= "" then
    redis.call("HSET", line.meta, name, value)
  end
end
local meta = redis.call("HMGET", line.meta, "mode", "policy", "fallback", "active", "reorder")
local wanted = meta[2] or "sjf"
if wanted == "sjf" and meta[3] == "1" then
  wanted = "fcfs"
end
local was, reorder = meta[4] or "sjf", meta[5]
redis.call("HSET", line.meta, "active", wanted)
if (was == "sjf") ~= (wanted == "sjf") then
  reorder = "-inf"
  redis.call("HSET", line.meta, "reorder", reorder)
end
if mode == "paused" then
  redis.call("ZREM", line.wake, "work")
elseif mode ~= "" and redis.call("EXISTS", line.tenants) == 1 then
  redis.call("ZADD", line.wake, 0, "work")
end
return {meta[1] or "open", wanted, reorder and "1" or "0"}
