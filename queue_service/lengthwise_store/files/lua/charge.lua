--[[
Record the size of a file: the ledger keeps the sum of each tenant and of all files. With a record,
the file is complete and enters its tenant's list. Expired files are taken off first, so the sums
correct themselves after a crash. Repeating the call changes nothing.

KEYS
  sizes   hash  file id -> "bytes tenant"
  expiry  zset  file id -> expiry, ms since the epoch
  totals  hash  "*" and "t:<tenant>" -> bytes
ARGV
  prefix, id, tenant, bytes, ttl_ms, tenant_max, total_max (bytes; "" for no bound),
  keep_ms (of the ledger itself), created_ms, record (JSON; "" while the file grows)
RETURNS
  {"ok", now_ms}
  {"full", "tenant" | "all", bytes}     nothing was written
]]
local sizes, expiry, totals = unpack(KEYS, 1, 3)
local prefix, id, tenant, bytes, ttl_ms, tenant_max, total_max, keep_ms, created_ms, record =
  unpack(ARGV, 1, 10)
local time = redis.call("TIME")
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function take_off(one)
  local known = redis.call("HGET", sizes, one)
  if not known then
    return 0
  end
  local had, owner = string.match(known, "^(%d+) (.*)$")
  redis.call("HDEL", sizes, one)
  redis.call("HINCRBY", totals, "*", -had)
  if redis.call("HINCRBY", totals, "t:" .. owner, -had) == 0 then
    redis.call("HDEL", totals, "t:" .. owner)
  end
  redis.call("ZREM", prefix .. "of:" .. owner, one)
  return tonumber(had)
end

for _, gone in ipairs(redis.call("ZRANGE", expiry, "-inf", now, "BYSCORE", "LIMIT", 0, 100)) do
  take_off(gone)
  redis.call("ZREM", expiry, gone)
end

local had = tonumber(string.match(redis.call("HGET", sizes, id) or "0 ", "^(%d+) "))
local more = bytes - had
local own = tonumber(redis.call("HGET", totals, "t:" .. tenant) or 0)
local all = tonumber(redis.call("HGET", totals, "*") or 0)
if more > 0 and tenant_max ~= "" and own + more > tonumber(tenant_max) then
  return {"full", "tenant", own}
elseif more > 0 and total_max ~= "" and all + more > tonumber(total_max) then
  return {"full", "all", all}
end

redis.call("HSET", sizes, id, bytes .. " " .. tenant)
redis.call("HINCRBY", totals, "*", more)
redis.call("HINCRBY", totals, "t:" .. tenant, more)
redis.call("ZADD", expiry, now + ttl_ms, id)
if record ~= "" then
  redis.call("SET", prefix .. "file:" .. id, record, "PX", ttl_ms)
  redis.call("ZADD", prefix .. "of:" .. tenant, created_ms, id)
  redis.call("PEXPIRE", prefix .. "of:" .. tenant, keep_ms)
end
for _, key in ipairs(KEYS) do
  redis.call("PEXPIRE", key, keep_ms)
end
return {"ok", now}
