--[[
Count an unexpected error in the work on a batch; the count begins anew when the batch has moved.

KEYS
  record  hash  the batch's record
ARGV
  nonce
RETURNS
  the errors since the last progress, or 0: another runner works on it now
]]
local record = KEYS[1]
local names = {"status", "cursor", "completed", "failed"}
local known = redis.call("HMGET", record, "owner", "fault_at", unpack(names))
if known[1] ~= ARGV[1] then
  return 0
end
local at = ""
for i = 1, #names do
  at = at .. (known[i + 2] or "") .. " "
end
if known[2] ~= at then
  redis.call("HSET", record, "fault_at", at, "faults", 0)
end
return redis.call("HINCRBY", record, "faults", 1)
