--[[
Change what people set for a queue, if nobody changed it since it was read.

KEYS
  queues  hash  queue name -> what people set, JSON
ARGV
  name, what was read ("": there was no such queue), what to write
RETURNS
  1, or 0: it is another text by now
]]
local queues = KEYS[1]
local name, old, new = unpack(ARGV, 1, 3)
if (redis.call("HGET", queues, name) or "") ~= old then
  return 0
end
redis.call("HSET", queues, name, new)
return 1
