--[[
claim: queued -> running | expired

Lease the next jobs to the caller: the tenant with the smallest virtual time, and of its jobs the
one that is due first. What is past its deadline ends here; what cannot be read goes to the dead
letters, and the line goes on. A paused queue gives nothing.

KEYS  the line's (include/line.lua)
ARGV  the line's, then
  count, lease_ms, nonce (random; the i-th job's is "nonce:i"), worker
RETURNS
  {now_ms, {id, nonce, attempt, plan, payload, due_ms, price, times, tenant}, ...}
]]
--@include line
--@include record
--@include tenant_line
--@include fcfs_clock
--@include end_job
local count, lease_ms, nonce, worker = unpack(ARGV, 5)
count = tonumber(count)
if redis.call("HGET", line.meta, "mode") == "paused" then
  redis.call("ZREM", line.wake, "work")
  return {ms(now)}
end

local popped, claims, rest_of, since_of, fcfs_wait, leases = {}, {}, {}, {}, {}, {}
local looked, taken, last, waits, wait_ms = 0, 0, 0, 0, 0
local started, lease_end = ms(now), ms(now + tonumber(lease_ms))
local FIRST = {"runs", "1 1", "started_ms", started}

-- One job that left the line: lease it to the caller and charge its tenant, or end it here.
-- Its record is written below, when it is known what first come first served would have done.
local function take(id, payload, tenant, alone, start)
  looked = looked + 1
  popped[looked] = id
  local record = redis.pcall("HMGET", line.prefix .. "job:" .. id,
    "state", "tenant", "times", "price", "plan", "runs", "due_ms")
  local readable = not record.err
  local cost, weight = string.match(readable and record[4] or "", "^(%S+) (%S+) %S+ %S+ %S+ %S+$")
  cost = tonumber(cost or "")
  last = cost or 0
  taken = taken + last
  local since, deadline = read_times(readable and record[3])
  local attempt, spent = read_runs(readable and record[6])
  if not (cost and deadline and attempt) or record[1] ~= "queued" or type(payload) ~= "string"
    or not (record[2] and record[5] and record[7]) then
    quarantine(line, id, tenant, now)
    return
  elseif deadline <= now then
    end_job(line, id, "expired", now,
      '{"code":"deadline_passed","message":"The job waited past its deadline. Allow it a longer ttl_ms."}',
      tenant, attempt, attempt > 0)
    return
  end
  attempt = attempt + 1
  if not alone then
    redis.call("ZADD", line.tenants, "XX", start + cost / tonumber(weight), tenant)
    redis.call("HSET", line.meta, "v", string.format("%.17g", start))
  end
  local rest = FIRST -- of its record; one table for most
  if attempt == 1 then
    waits, wait_ms = waits + 1, wait_ms + math.max(0, now - since)
    if not alone then
      rest = {"runs", "1 1", "started_ms", started, "charged", cost}
    end
  else -- it began at its first attempt
    rest = {"runs", attempt .. " " .. spent + 1, "emitted", 0, "charged", alone and 0 or cost}
    redis.call("XADD", line.prefix .. "out:" .. id, "*", "k", "attempt", "a", attempt, "d", "")
  end
  local n = #claims + 1
  claims[n] = {id, nonce .. ":" .. looked - 1, attempt, record[5], payload, record[7], record[4],
    record[3], tenant}
  since_of[n], rest_of[n], fcfs_wait[id] = since, rest, true
  leases[2 * n - 1], leases[2 * n] = lease_end, id
end

-- Bounded, whatever lies in the line: at most 100 jobs that end here for each call.
while #claims < count and looked < count + 100 do
  local first = redis.call("ZRANGE", line.tenants, 0, 1, "WITHSCORES")
  local tenant, alone = first[1], not first[3]
  if not tenant then
    break
  end
  -- Nobody else waits: the tenant takes what it likes, and is not charged for it.
  local ready = line.prefix .. "ready:" .. tenant
  local next = redis.call("ZPOPMIN", ready, alone and math.min(500, count - #claims) or 1)
  local bodies = {}
  for i = 1, #next, 2 do
    bodies[#bodies + 1] = line.prefix .. "in:" .. next[i]
  end
  if #bodies > 0 then
    bodies = redis.call("MGET", unpack(bodies))
  end
  for i = 1, #bodies do
    take(next[2 * i - 1], bodies[i], tenant, alone, tonumber(first[2]))
  end
  if redis.call("EXISTS", ready) == 0 then
    rest(line, tenant)
  end
end

on_many("ZREM", line.accepted, popped)
-- Twice as many as were claimed: a backlog of these shrinks, and no call does much.
local gone, most = served(line, taken) - last, 2 * looked + 2
if redis.call("EXISTS", line.tenants) == 1 then
  redis.call("ZADD", line.wake, 0, "work") -- the next idle worker wakes in its turn
else
  redis.call("ZREM", line.wake, "work")
  redis.call("HSET", line.meta, "backlog_tokens", 0) -- heals what an unreadable cost left behind
  -- All have begun, so they had under first come first served; and perhaps no claim follows.
  gone, most = math.huge, 500
end
if looked > 0 then
  resolve(line, gone, now, fcfs_wait, most)
end

-- A job was overtaken by this call if it came earlier than one of these and still waits.
local overtaken, oldest = 0, redis.call("ZRANGE", line.accepted, 0, 0, "WITHSCORES")[2]
oldest = tonumber(oldest or "") or math.huge
for i = 1, #claims do
  local id, own = claims[i][1], claims[i][2]
  local job, wait = line.prefix .. "job:" .. id, fcfs_wait[id]
  if wait == true then -- not known yet
    redis.call("HSET", job, "state", "running", "nonce", own, "worker", worker, unpack(rest_of[i]))
  else
    redis.call("HSET", job, "state", "running", "nonce", own, "worker", worker,
      "fcfs_wait_ms", wait, unpack(rest_of[i]))
  end
  if oldest < since_of[i] then
    overtaken = overtaken + redis.call("ZCOUNT", line.accepted, "-inf", "(" .. ms(since_of[i]))
  end
end
on_many("ZADD", line.leases, leases)
if overtaken > 0 then
  redis.call("HINCRBY", line.meta, "overtakes", overtaken)
end
if waits > 0 then
  redis.call("HINCRBY", line.meta, "waits", waits)
  redis.call("HINCRBY", line.meta, "wait_ms", string.format("%.0f", wait_ms))
end
settle(line)
table.insert(claims, 1, started)
return claims
