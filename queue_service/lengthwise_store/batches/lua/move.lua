--[[
Change the status of a batch, and record the time.

KEYS
  record  hash  the batch's record
ARGV
  nonce (of the runner; "" from a client), from (statuses, with a space behind each), to,
  then further fields and values
RETURNS
  {"moved"}
  {"lost"}            another runner works on it now
  {"not", status}     it is in none of those statuses
]]
local record = KEYS[1]
local nonce, from, to = unpack(ARGV, 1, 3)
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local known = redis.call("HMGET", record, "owner", "status")
if nonce ~= "" and known[1] ~= nonce then
  return {"lost"}
elseif not known[2] or not string.find(from, known[2] .. " ", 1, true) then
  return {"not", known[2] or ""}
end
for at = 4, #ARGV, 2 do
  redis.call("HSET", record, unpack(ARGV, at, at + 1))
end
redis.call("HSET", record, "status", to, to .. "_ms", string.format("%.0f", now))
return {"moved"}
