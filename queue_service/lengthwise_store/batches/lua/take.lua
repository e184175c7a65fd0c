--[[
Take the batch that has waited longest for somebody to work on it, for a while; or extend that.

KEYS
  active  zset  id of an unfinished batch -> taken until, ms since the epoch
ARGV
  lease_ms, id ("" for any; a batch that is known must be unfinished still)
RETURNS
  the batch's id, or false
]]
local active = KEYS[1]
local lease_ms, id = unpack(ARGV)
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
