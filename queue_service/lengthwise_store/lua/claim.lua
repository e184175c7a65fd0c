--[[
claim: queued -> running | expired

Lease the next jobs to the caller: of the tenant with the smallest virtual time, the job that is due
first. A job past its deadline ends here; a job that cannot be read goes to the dead letters, and the
next one is tried. A paused queue gives nothing.

KEYS  the queue's (include/queue.lua)
ARGV  the queue's, then
  count, lease_ms, nonce (random; the i-th job's is "nonce:i"), worker
RETURNS
  {now_ms, {id, nonce, attempt, plan, payload, due_ms, price, times, tenant}, ...}; plan has the id
  of the request behind it, if there is one
]]
--@include queue
--@include record
--@include tenant_queue
--@include fcfs_clock
--@include end_job
local count, lease_ms, nonce, worker = unpack(ARGV, 5, 8)
count = tonumber(count)
if redis.call("HGET", queue.meta, "mode") == "paused" then
  redis.call("ZREM", queue.wake, "work")
  return {ms(now)}
end

local popped, claims, rest_of, since_of, fcfs_wait, leases = {}, {}, {}, {}, {}, {}
local looked, taken, last, waits, wait_ms = 0, 0, 0, 0, 0
local started, lease_end = ms(now), ms(now + tonumber(lease_ms))
local FIRST = {"runs", "1 1", "started_ms", started}

-- Lease one job that left the queue to the caller and charge its tenant, or end it here.
-- Its record is written below, when its wait under first come first served is known.
local function take(id, payload, tenant, alone, start)
  looked = looked + 1
  popped[looked] = id
  local record = redis.pcall("HMGET", queue.prefix .. "job:" .. id,
    "state", "tenant", "times", "price", "plan", "runs", "due_ms", "request")
  local readable = not record.err
  local cost, weight = string.match(readable and record[4] or "", "^(%S+) (%S+) %S+ %S+ %S+ %S+$")
  cost = tonumber(cost or "")
  last = cost or 0
  taken = taken + last
  local since, deadline = read_times(readable and record[3])
  local attempt, spent = read_runs(readable and record[6])
  if not (cost and deadline and attempt) or record[1] ~= "queued" or type(payload) ~= "string"
    or not (record[2] and record[5] and record[7]) then
    quarantine(queue, id, tenant, now)
    return
  elseif deadline <= now then
    end_job(queue, id, "expired", now,
      '{"code":"deadline_passed","message":"The job waited past its deadline. Allow it a longer ttl_ms."}',
      tenant, attempt, attempt > 0)
    return
  end
  attempt = attempt + 1
  if not alone then
    redis.call("ZADD", queue.tenants, "XX", start + cost / tonumber(weight), tenant)
    redis.call("HSET", queue.meta, "v", string.format("%.17g", start))
  end
  local rest = FIRST -- of its fields; most jobs share one table
  if attempt == 1 then
    waits, wait_ms = waits + 1, wait_ms + math.max(0, now - since)
    if not alone then
      rest = {"runs", "1 1", "started_ms", started, "charged", cost}
    end
  else -- started_ms was set at its first attempt
    rest = {"runs", attempt .. " " .. spent + 1, "emitted", 0, "charged", alone and 0 or cost}
    append(queue.prefix .. "out:" .. id, "k", "attempt", "a", attempt, "d", "")
  end
  local n = #claims + 1
  local plan = record[8] and record[5] .. " " .. record[8] or record[5]
  claims[n] = {id, nonce .. ":" .. looked - 1, attempt, plan, payload, record[7], record[4],
    record[3], tenant}
  since_of[n], rest_of[n], fcfs_wait[id] = since, rest, true
  leases[2 * n - 1], leases[2 * n] = lease_end, id
end

-- Bounded: at most 100 jobs end here in each call.
while #claims < count and looked < count + 100 do
  local first = redis.call("ZRANGE", queue.tenants, 0, 1, "WITHSCORES")
  local tenant, alone = first[1], not first[3]
  if not tenant then
    break
  end
  -- No other tenant waits: this one takes as much as it asks for and is not charged.
  local ready = queue.prefix .. "ready:" .. tenant
  local next = redis.call("ZPOPMIN", ready, alone and math.min(500, count - #claims) or 1)
  local bodies = {}
  for i = 1, #next, 2 do
    bodies[#bodies + 1] = queue.prefix .. "in:" .. next[i]
  end
  if #bodies > 0 then
    bodies = redis.call("MGET", unpack(bodies))
  end
  for i = 1, #bodies do
    take(next[2 * i - 1], bodies[i], tenant, alone, tonumber(first[2]))
  end
  if redis.call("EXISTS", ready) == 0 then
    rest(queue, tenant)
  end
end

on_many("ZREM", queue.accepted, popped)
-- Twice as many as were claimed, so that a backlog of marks shrinks and no call does much.
local gone, most = looked > 0 and served(queue, taken) - last or 0, 2 * looked + 2
if redis.call("EXISTS", queue.tenants) == 1 then
  redis.call("ZADD", queue.wake, 0, "work") -- the next idle worker wakes too
else
  redis.call("ZREM", queue.wake, "work")
  if (redis.call("HGET", queue.meta, "backlog_tokens") or "0") ~= "0" then
    redis.call("HSET", queue.meta, "backlog_tokens", 0) -- corrects it after an unreadable cost
  end
  -- All jobs have started, so they would have under first come first served. No claim may follow.
  gone, most = math.huge, 500
end
if looked > 0 then
  resolve(queue, gone, now, fcfs_wait, most)
end

-- This call overtook every job that was accepted before one of the claimed and still waits.
local overtaken, oldest = 0, redis.call("ZRANGE", queue.accepted, 0, 0, "WITHSCORES")[2]
oldest = tonumber(oldest or "") or math.huge
for i = 1, #claims do
  local id, own = claims[i][1], claims[i][2]
  local job, wait = queue.prefix .. "job:" .. id, fcfs_wait[id]
  if wait == true then -- not known yet
    redis.call("HSET", job, "state", "running", "nonce", own, "worker", worker, unpack(rest_of[i]))
  else
    redis.call("HSET", job, "state", "running", "nonce", own, "worker", worker,
      "fcfs_wait_ms", wait, unpack(rest_of[i]))
  end
  if oldest < since_of[i] then
    overtaken = overtaken + redis.call("ZCOUNT", queue.accepted, "-inf", "(" .. ms(since_of[i]))
  end
end
on_many("ZADD", queue.leases, leases)
if overtaken > 0 then
  redis.call("HINCRBY", queue.meta, "overtakes", overtaken)
end
if waits > 0 then
  redis.call("HINCRBY", queue.meta, "waits", waits)
  redis.call("HINCRBY", queue.meta, "wait_ms", string.format("%.0f", wait_ms))
end
write_ends(queue)
table.insert(claims, 1, started)
return claims
