--[[
Become the runner of a batch: from now on, every write of an earlier runner is refused.

KEYS
  record  hash  the batch's record
ARGV
  nonce
RETURNS
  {now_ms, fields and values of the record}, or {now_ms}: there is none
]]
local record = KEYS[1]
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call("EXISTS", record) == 1 then
  redis.call("HSET", record, "owner", ARGV[1])
end
return {now, redis.call("HGETALL", record)}
