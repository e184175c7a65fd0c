--[[
tick: scheduled -> queued | expired
tick: queued -> expired
tick: running -> running | queued | failed | cancelled | expired

Let time pass: delays end, leases run out, deadlines pass. A job whose lease ran out keeps its due
time. A job that runs past its deadline is flagged like a cancelled one, so its worker aborts.

KEYS  the queue's (include/queue.lua), then
  guard        string  set for tick_ms after a tick, so that many callers tick once
  workers      zset    worker id -> last heartbeat, ms since the epoch
  worker_info  hash    worker id -> JSON
  control      pub/sub channel of hints to the workers
ARGV  the queue's, then
  tick_ms (0: no guard), limit (jobs moved of each kind), worker_ttl_ms,
  keep (ids kept in a tenant's finished and dead),
  gap_ms, grace_ms (0: none): after gap_ms without a tick, no lease ends for grace_ms
RETURNS
  {promoted, returned, failed, expired, cancelled} | {}: the last tick was less than tick_ms ago
]]
--@include queue
--@include record
--@include tenant_queue
--@include fcfs_clock
--@include end_job
local guard, workers, worker_info, control = unpack(KEYS, 12, 15)
local tick_ms, limit, worker_ttl_ms, keep, gap_ms, grace_ms = unpack(ARGV, 5, 10)
if tonumber(tick_ms) > 0 and not redis.call("SET", guard, "1", "NX", "PX", tick_ms) then
  return {}
end
local moved = {promoted = 0, returned = 0, failed = 0, expired = 0, cancelled = 0}

local function past(zset)
  return redis.call("ZRANGEBYSCORE", zset, "-inf", now, "LIMIT", 0, limit)
end

-- A job left `delayed` whose record cannot be read: correct the number of its tenant's scheduled jobs.
-- If its tenant is not known any more, those that are left are counted, at once or when few are left.
local function recount(tenant)
  if tenant then
    hold(queue, tenant, -1)
  elseif redis.call("ZCARD", queue.delayed) > 5000 then
    redis.call("HSET", queue.meta, "recount", "1")
  else
    redis.call("HDEL", queue.meta, "recount")
    redis.call("DEL", queue.scheduled)
    for _, id in ipairs(redis.call("ZRANGE", queue.delayed, 0, -1)) do
      local owner = redis.pcall("HGET", queue.prefix .. "job:" .. id, "tenant")
      if type(owner) == "string" then
        redis.call("HINCRBY", queue.scheduled, owner, 1)
      end
    end
  end
end

-- The parts of a record that are needed here. Unreadable: nil, and the job is a dead letter.
local function read(id, wanted)
  local record = redis.pcall("HMGET", queue.prefix .. "job:" .. id, "state", "times", "price", "runs",
    "plan", "cancel", "tenant")
  local known = not record.err
  local cost, _, slack, offset = read_price(known and record[3])
  local since = read_times(known and record[2])
  local attempt, spent = read_runs(known and record[4])
  local max_attempts = read_max_attempts(known and record[5])
  if not (cost and since and attempt and max_attempts) or record[1] ~= wanted or not record[7] then
    if wanted == "scheduled" then
      recount(known and record[7])
    end
    quarantine(queue, id, known and record[7] or "default", now)
    return nil
  end
  return {cost = cost, slack = slack, offset = offset, since = since, attempt = attempt,
    spent = spent, max_attempts = max_attempts, cancel = record[6], tenant = record[7]}
end

local function queue_again(id, record)
  local job = queue.prefix .. "job:" .. id
  redis.call("HSET", job, "state", "queued")
  local due = due_again(queue, job, record.since, record.slack, record.offset)
  return enter(queue, id, record.tenant, due, record.since, record.cost)
end

-- This server was away, so no worker could extend its leases. Each gets the time for a heartbeat, or
-- -- all that is running or already answered would be answered again. Not twice in a row, so that late
-- ticks never keep a lease for ever.
local function leases_may_end()
  local seen = redis.call("HMGET", queue.meta, "ticked_ms", "grace_ends_ms")
  local ticked, ends = tonumber(seen[1] or "") or now, tonumber(seen[2] or "") or 0
  if seen[1] or redis.call("EXISTS", queue.meta) == 1 then -- else it was removed, and stays so
    redis.call("HSET", queue.meta, "ticked_ms", ms(now))
  end
  if now - ticked > tonumber(gap_ms) and now > ends + 2 * tonumber(gap_ms) then
    ends = now + tonumber(grace_ms)
    redis.call("HSET", queue.meta, "grace_ends_ms", ms(ends))
  end
  return now >= ends
end

local ended = {}
if tonumber(grace_ms) == 0 or leases_may_end() then
  ended = past(queue.leases)
end
for _, id in ipairs(ended) do
  redis.call("ZREM", queue.leases, id)
  local record = read(id, "running")
  if record then -- so that a late `finish` of its worker returns "lost"
    redis.call("HDEL", queue.prefix .. "job:" .. id, "nonce")
  end
  if record and record.cancel then
    end_job(queue, id, record.cancel, now, "", record.tenant, record.attempt, true)
    moved[record.cancel] = moved[record.cancel] + 1
  elseif record and record.spent >= record.max_attempts then
    end_job(queue, id, "failed", now, '{"code":"lease_expired","message":"Every attempt ended with '
      .. 'a worker that went silent. If the request is sound, submit it again."}', record.tenant,
      record.attempt, true)
    moved.failed = moved.failed + 1
  elseif record then
    redis.call("HINCRBY", queue.meta, "leases_expired", 1)
    queue_again(id, record)
    moved.returned = moved.returned + 1
  end
end

for _, id in ipairs(past(queue.deadlines)) do
  redis.call("ZREM", queue.deadlines, id)
  local job = queue.prefix .. "job:" .. id
  local record = redis.pcall("HMGET", job, "state", "tenant", "price", "runs")
  local state = not record.err and record[1]
  if state == "running" then
    redis.call("HSETNX", job, "cancel", "expired")
    redis.call("PUBLISH", control, id)
  elseif (state == "queued" or state == "scheduled") and record[2] then
    leave(queue, id, record[2], read_price(record[3]) or 0)
    if redis.call("ZREM", queue.delayed, id) == 1 then
      hold(queue, record[2], -1)
    end
    local attempt = read_runs(record[4])
    end_job(queue, id, "expired", now,
      '{"code":"deadline_passed","message":"The job waited past its deadline. Allow it a longer ttl_ms."}',
      record[2], attempt, attempt ~= 0)
    moved.expired = moved.expired + 1
  end
end

for _, id in ipairs(past(queue.delayed)) do
  redis.call("ZREM", queue.delayed, id)
  local record = read(id, "scheduled")
  if record then
    hold(queue, record.tenant, -1)
    local backlog = queue_again(id, record)
    if record.attempt == 0 then
      local gone = redis.call("HGET", queue.meta, "served") or 0
      mark(queue, id, record.since, record.cost, backlog, gone)
    end
    moved.promoted = moved.promoted + 1
  end
end

if redis.call("HEXISTS", queue.meta, "recount") == 1 then
  recount()
end

write_ends(queue) -- before a tenant with no jobs is forgotten below

for _, worker in ipairs(redis.call("ZRANGEBYSCORE", workers, "-inf", now - worker_ttl_ms, "LIMIT", 0, limit)) do
  redis.call("ZREM", workers, worker)
  redis.call("HDEL", worker_info, worker)
end

-- A page of tenants: trim their lists, and forget those that have no jobs.
local trimmed = redis.call("HGET", queue.meta, "trimmed") or "0"
local page = redis.call("HSCAN", queue.vt, trimmed, "COUNT", 20)
if page[1] ~= trimmed then
  redis.call("HSET", queue.meta, "trimmed", page[1])
end
for i = 1, #page[2], 2 do
  local tenant = page[2][i]
  local finished, dead = queue.prefix .. "finished:" .. tenant, queue.prefix .. "dead:" .. tenant
  redis.call("ZREMRANGEBYSCORE", finished, "-inf", now - queue.retention_ms)
  redis.call("ZREMRANGEBYSCORE", dead, "-inf", now - queue.dead_retention_ms)
  redis.call("ZREMRANGEBYRANK", finished, 0, -1 - keep)
  redis.call("ZREMRANGEBYRANK", dead, 0, -1 - keep)
  if redis.call("EXISTS", finished, dead, queue.prefix .. "ready:" .. tenant) == 0
    and redis.call("HEXISTS", queue.scheduled, tenant) == 0
    and tonumber(page[2][i + 1]) <= tonumber(redis.call("HGET", queue.meta, "v") or 0) then
    redis.call("HDEL", queue.vt, tenant)
  end
end

if redis.call("EXISTS", queue.tenants) == 0 then
  resolve(queue, math.huge, now, {}, 500) -- marks that the claim that emptied the queue left
elseif redis.call("HGET", queue.meta, "mode") ~= "paused" then
  redis.call("ZADD", queue.wake, 0, "work")
end
return {moved.promoted, moved.returned, moved.failed, moved.expired, moved.cancelled}
