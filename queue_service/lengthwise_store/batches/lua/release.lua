--[[
Let another take a batch, when those that have waited longer were taken.

KEYS
  active  zset  id of an unfinished batch -> taken until, ms since the epoch
ARGV
  id
RETURNS
  nothing
]]
local time = redis.call("TIME")
redis.call("ZADD", KEYS[1], "XX", time[1] * 1000 + math.floor(time[2] / 1000), ARGV[1])
