--[[
Record lines as started, before their jobs are submitted, and how far the input was read.

KEYS
  record  hash  the batch's record
  open    hash  line -> its place in the input, of lines without a result
ARGV
  nonce, ttl_ms, old cursor, new cursor, then lines and their places
RETURNS
  1, or 0: another runner works on it now
]]
local record, open = KEYS[1], KEYS[2]
local nonce, ttl_ms, old, new = unpack(ARGV, 1, 4)
local known = redis.call("HMGET", record, "owner", "cursor")
if known[1] ~= nonce then
  return 0
elseif known[2] == old then
  redis.call("HSET", record, "cursor", new)
  for at = 5, #ARGV, 500 do -- `unpack` is bounded
    redis.call("HSET", open, unpack(ARGV, at, math.min(at + 499, #ARGV)))
  end
  redis.call("PEXPIRE", open, ttl_ms)
end
return known[2] == new and 1 or known[2] == old and 1 or 0
