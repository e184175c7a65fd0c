--[[
Publish what a worker reports of its engine, for a queue that exists.

KEYS
  queues     hash  queue name -> what people set, JSON
  published  hash  queue name -> what a worker published last, JSON
ARGV
  name, what to write, always ("1"; "": only if nothing is published)
RETURNS
  1, or 0: there is no such queue
]]
local queues, published = unpack(KEYS, 1, 2)
local name, text, always = unpack(ARGV, 1, 3)
if redis.call("HEXISTS", queues, name) == 0 then
  return 0
end
if always == "1" then
  redis.call("HSET", published, name, text)
else
  redis.call("HSETNX", published, name, text)
end
return 1
