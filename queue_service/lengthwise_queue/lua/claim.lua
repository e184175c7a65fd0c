--[[
claim: queued -> running | expired

Lease the jobs with the smallest due times to the caller. What is past its deadline ends here;
what cannot be read goes to the dead letters, and the line goes on.

KEYS
  ready      zset  job id -> due time, ms since the epoch
  accepted   zset  id of a queued job -> when it was accepted, ms since the epoch
  leases     zset  job id -> lease end, ms since the epoch
  deadlines  zset  job id -> deadline, ms since the epoch
  finished   zset  job id -> when it ended
  dead       zset  id of a failed job -> when it ended
  wake       zset  one marker while there is work
  meta       hash  counters
ARGV
  prefix, now_ms, count, lease_ms, nonce (random; the i-th job's is "nonce:i"), worker,
  retention_ms, dead_retention_ms
RETURNS
  {{id, nonce, attempt, endpoint, payload, due_ms, predicted_tokens, deadline_ms}, ...}
]]
--@include end_job
local ready, accepted, leases, deadlines, finished, dead, wake, meta = unpack(KEYS)
local prefix, now_ms, count, lease_ms, nonce, worker, retention_ms, dead_retention_ms = unpack(ARGV)
local now = tonumber(now_ms)
if not now then
  local time = redis.call("TIME")
  now = time[1] * 1000 + time[2] / 1000
end
local line = {prefix = prefix, deadlines = deadlines, finished = finished, dead = dead, meta = meta,
  retention_ms = retention_ms, dead_retention_ms = dead_retention_ms}

local claims, looked = {}, 0
-- Bounded, whatever lies in the line: at most 100 jobs that end here for each call.
while #claims < tonumber(count) and looked < tonumber(count) + 100 do
  looked = looked + 1
  local id = redis.call("ZPOPMIN", ready)[1]
  if not id then
    break
  end
  redis.call("ZREM", accepted, id)
  local job = prefix .. "job:" .. id
  local record = redis.pcall("HMGET", job, "state", "cost", "attempt", "spent", "endpoint",
    "due_ms", "predicted_tokens", "deadline_ms")
  local payload = redis.pcall("GET", prefix .. "in:" .. id)
  local cost = not record.err and tonumber(record[2])
  redis.call("HINCRBY", meta, "backlog_tokens", 0 - (cost or 0))
  if record.err or record[1] ~= "queued" or type(payload) ~= "string" or not (cost
    and tonumber(record[3]) and tonumber(record[4]) and record[5] and tonumber(record[6])
    and tonumber(record[7]) and tonumber(record[8])) then
    quarantine(line, id, now)
  elseif tonumber(record[8]) <= now then
    end_job(line, id, "expired", now,
      '{"code":"deadline_passed","message":"The job waited past its deadline. Allow it a longer ttl_ms."}')
  else
    local attempt, mine = record[3] + 1, nonce .. ":" .. looked
    redis.call("HSET", job, "state", "running", "nonce", mine, "worker", worker,
      "attempt", attempt, "spent", record[4] + 1, "emitted", 0)
    redis.call("HSETNX", job, "started_ms", string.format("%.3f", now))
    redis.call("ZADD", leases, now + tonumber(lease_ms), id)
    if attempt > 1 then
      redis.call("XADD", prefix .. "out:" .. id, "*", "k", "attempt", "a", attempt, "d", "")
    end
    claims[#claims + 1] = {id, mine, attempt, record[5], payload, record[6], record[7], record[8]}
  end
end
if redis.call("ZCARD", ready) > 0 then
  redis.call("ZADD", wake, 0, "work") -- the next idle worker wakes in its turn
else
  redis.call("ZREM", wake, "work")
  redis.call("HSET", meta, "backlog_tokens", 0) -- heals what an unreadable cost left behind
end
return claims
