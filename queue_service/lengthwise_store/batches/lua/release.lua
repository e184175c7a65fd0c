--[[
Release a batch: another runner may take it, after those that have waited longer.

KEYS
  active  zset  id of an unfinished batch -> lease end, ms since the epoch
ARGV
  id
RETURNS
  nothing
]]
local time = redis.call("TIME")
redis.call("ZADD", KEYS[1], "XX", time[1] * 1000 + math.floor(time[2] / 1000), ARGV[1])
