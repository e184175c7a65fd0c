--[[
Take a batch that nobody works on, for a while.

KEYS
  active  zset  id of an unfinished batch -> taken until, ms since the epoch
ARGV
  lease_ms
RETURNS
  the batch's id, or false
]]
local active = KEYS[1]
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local id = redis.call("ZRANGE", active, "-inf", now, "BYSCORE", "LIMIT", 0, 1)[1]
if id then
  redis.call("ZADD", active, now + ARGV[1], id)
end
return id
