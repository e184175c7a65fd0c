--[[
tick: scheduled -> queued | expired
tick: queued -> expired
tick: running -> running | queued | failed | cancelled | expired

Let time pass: delays end, leases run out, deadlines pass. A job whose lease ran out keeps its due
time. A job that runs past its deadline is flagged like a cancelled one, so its worker aborts.

KEYS
  guard        string  present for tick_ms after a tick, so that many callers tick once
  ready        zset    job id -> due time, ms since the epoch
  accepted     zset    id of a queued job -> when it was accepted, ms since the epoch
  leases       zset    job id -> lease end, ms since the epoch
  delayed      zset    job id -> not before, ms since the epoch
  deadlines    zset    job id -> deadline, ms since the epoch
  finished     zset    job id -> when it ended
  dead         zset    id of a failed job -> when it ended
  wake         zset    one marker while there is work
  meta         hash    counters
  workers      zset    worker id -> last heard of, ms since the epoch
  worker_info  hash    worker id -> JSON
  control      pub/sub channel of hints to the workers
ARGV
  prefix, now_ms, tick_ms (0: no guard), limit (jobs moved of each kind), worker_ttl_ms,
  retention_ms, dead_retention_ms, keep (entries kept in finished and in dead)
RETURNS
  {promoted, returned, failed, expired, cancelled} | {} when it is not time yet
]]
--@include end_job
local guard, ready, accepted, leases, delayed, deadlines, finished, dead, wake, meta, workers,
  worker_info, control = unpack(KEYS)
local prefix, now_ms, tick_ms, limit, worker_ttl_ms, retention_ms, dead_retention_ms, keep =
  unpack(ARGV)
if tonumber(tick_ms) > 0 and not redis.call("SET", guard, "1", "NX", "PX", tick_ms) then
  return {}
end
local now = tonumber(now_ms)
if not now then
  local time = redis.call("TIME")
  now = time[1] * 1000 + time[2] / 1000
end
local line = {prefix = prefix, deadlines = deadlines, finished = finished, dead = dead, meta = meta,
  retention_ms = retention_ms, dead_retention_ms = dead_retention_ms}
local moved = {promoted = 0, returned = 0, failed = 0, expired = 0, cancelled = 0}

local function past(zset)
  return redis.call("ZRANGEBYSCORE", zset, "-inf", now, "LIMIT", 0, limit)
end

local function read(id, wanted)
  local record = redis.pcall("HMGET", prefix .. "job:" .. id, "state", "due_ms", "accepted_ms",
    "cost", "spent", "max_attempts", "cancel")
  if record.err or record[1] ~= wanted or not (tonumber(record[2]) and tonumber(record[3])
    and tonumber(record[4]) and tonumber(record[5]) and tonumber(record[6])) then
    quarantine(line, id, now)
    return nil
  end
  return record
end

local function queue_again(id, record)
  redis.call("HSET", prefix .. "job:" .. id, "state", "queued")
  redis.call("HDEL", prefix .. "job:" .. id, "nonce", "worker")
  redis.call("ZADD", ready, record[2], id)
  redis.call("ZADD", accepted, record[3], id)
  redis.call("HINCRBY", meta, "backlog_tokens", record[4])
end

for _, id in ipairs(past(leases)) do
  redis.call("ZREM", leases, id)
  local record = read(id, "running")
  if record and record[7] then
    end_job(line, id, record[7], now, "")
    moved[record[7]] = moved[record[7]] + 1
  elseif record and tonumber(record[5]) >= tonumber(record[6]) then
    end_job(line, id, "failed", now, '{"code":"lease_expired","message":"Every attempt ended with '
      .. 'a worker that went silent. If the request is sound, submit it again."}')
    moved.failed = moved.failed + 1
  elseif record then
    redis.call("HINCRBY", meta, "leases_expired", 1)
    queue_again(id, record)
    moved.returned = moved.returned + 1
  end
end

for _, id in ipairs(past(deadlines)) do
  redis.call("ZREM", deadlines, id)
  local job = prefix .. "job:" .. id
  local state = redis.pcall("HGET", job, "state")
  if state == "running" then
    redis.call("HSETNX", job, "cancel", "expired")
    redis.call("PUBLISH", control, id)
  elseif state == "queued" or state == "scheduled" then
    if redis.call("ZREM", ready, id) == 1 then
      redis.call("HINCRBY", meta, "backlog_tokens", 
        0 - (tonumber(redis.call("HGET", job, "cost")) or 0))
    end
    redis.call("ZREM", accepted, id)
    redis.call("ZREM", delayed, id)
    end_job(line, id, "expired", now,
      '{"code":"deadline_passed","message":"The job waited past its deadline. Allow it a longer ttl_ms."}')
    moved.expired = moved.expired + 1
  end
end

for _, id in ipairs(past(delayed)) do
  redis.call("ZREM", delayed, id)
  local record = read(id, "scheduled")
  if record then
    queue_again(id, record)
    moved.promoted = moved.promoted + 1
  end
end

for _, worker in ipairs(redis.call("ZRANGEBYSCORE", workers, "-inf", now - worker_ttl_ms, "LIMIT", 0, limit)) do
  redis.call("ZREM", workers, worker)
  redis.call("HDEL", worker_info, worker)
end
redis.call("ZREMRANGEBYSCORE", finished, "-inf", now - retention_ms)
redis.call("ZREMRANGEBYSCORE", dead, "-inf", now - dead_retention_ms)
redis.call("ZREMRANGEBYRANK", finished, 0, -1 - keep)
redis.call("ZREMRANGEBYRANK", dead, 0, -1 - keep)
if redis.call("ZCARD", ready) > 0 then
  redis.call("ZADD", wake, 0, "work")
end
return {moved.promoted, moved.returned, moved.failed, moved.expired, moved.cancelled}
