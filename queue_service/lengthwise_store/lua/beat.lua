--[[
beat: running -> running

Extend the leases of one worker, and return which of them it lost or should abort.

KEYS
  leases       zset  job id -> lease end, ms since the epoch
  workers      zset  worker id -> last heartbeat, ms since the epoch
  worker_info  hash  worker id -> JSON
ARGV
  prefix, now_ms, lease_ms, worker, info (JSON), then for each lease: id, nonce
RETURNS
  {"held" | "cancel" | "lost", ...}   in the order of the leases
]]
local leases, workers, worker_info = unpack(KEYS, 1, 3)
local prefix, now_ms, lease_ms, worker, info = unpack(ARGV, 1, 5)
local now = tonumber(now_ms)
if not now then
  local time = redis.call("TIME")
  now = time[1] * 1000 + time[2] / 1000
end

redis.call("ZADD", workers, now, worker)
redis.call("HSET", worker_info, worker, info)
-- Nobody ticks a queue that was removed, so what a worker left there must go by itself.
redis.call("PEXPIRE", workers, 3600000)
redis.call("PEXPIRE", worker_info, 3600000)
local answers = {}
for i = 6, #ARGV, 2 do
  local id, nonce = ARGV[i], ARGV[i + 1]
  -- One damaged record must not cost the worker its other leases.
  local record = redis.pcall("HMGET", prefix .. "job:" .. id, "state", "nonce", "cancel")
  if record[1] ~= "running" or record[2] ~= nonce then
    answers[#answers + 1] = "lost"
  else
    redis.call("ZADD", leases, "XX", now + tonumber(lease_ms), id)
    answers[#answers + 1] = record[3] and "cancel" or "held"
  end
end
return answers
