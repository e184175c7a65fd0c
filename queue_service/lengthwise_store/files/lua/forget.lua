--[[
Remove a file from the ledger and from its tenant's list.

KEYS
  sizes   hash  file id -> "bytes tenant"
  expiry  zset  file id -> expiry, ms since the epoch
  totals  hash  "*" and "t:<tenant>" -> bytes
ARGV
  prefix, id
RETURNS
  1, or 0: there was none
]]
local sizes, expiry, totals = unpack(KEYS, 1, 3)
local prefix, id = unpack(ARGV, 1, 2)
local known = redis.call("HGET", sizes, id)
redis.call("ZREM", expiry, id)
redis.call("DEL", prefix .. "file:" .. id)
if not known then
  return 0
end
local had, owner = string.match(known, "^(%d+) (.*)$")
redis.call("HDEL", sizes, id)
redis.call("HINCRBY", totals, "*", -had)
if redis.call("HINCRBY", totals, "t:" .. owner, -had) == 0 then
  redis.call("HDEL", totals, "t:" .. owner)
end
redis.call("ZREM", prefix .. "of:" .. owner, id)
return 1
