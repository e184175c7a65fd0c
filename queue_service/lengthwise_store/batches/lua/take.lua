--[[
Lease the batch that has waited longest for a runner; or extend a lease.

KEYS
  active  zset  id of an unfinished batch -> lease end, ms since the epoch
ARGV
  lease_ms, id ("" for any; a given batch must still be unfinished)
RETURNS
  the batch's id, or false
]]
local active = KEYS[1]
local lease_ms, id = unpack(ARGV, 1, 2)
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if id == "" then
  id = redis.call("ZRANGE", active, "-inf", now, "BYSCORE", "LIMIT", 0, 1)[1]
elseif not redis.call("ZSCORE", active, id) then
  return false
end
if id then
  redis.call("ZADD", active, now + lease_ms, id)
end
return id
