--[[
Return the time of the server that has a key.

KEYS
  key  any
RETURNS
  ms since the epoch
]]
local time = redis.call("TIME")
return time[1] * 1000 + math.floor(time[2] / 1000)
