--[[
claim: queued -> running | expired

Lease the next jobs to the caller: the tenant with the smallest virtual time, and of its jobs the
one that is due first. What is past its deadline ends here; what cannot be read goes to the dead
letters, and the line goes on. A paused queue gives nothing.

KEYS  the line's (include/line.lua)
ARGV  the line's, then
  count, lease_ms, nonce (random; the i-th job's is "nonce:i"), worker
RETURNS
  {{id, nonce, attempt, plan, payload, due_ms, price, deadline_ms, tenant,
    waited_ms ("" when it had run before)}, ...}
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
  return {}
end

local claims, mine, looked, overtaken, wait_ms, waits, taken, last = {}, {}, 0, 0, 0, 0, 0, 0

local function take(id, tenant, alone, start)
  local job = line.prefix .. "job:" .. id
  overtaken = overtaken + (redis.call("ZRANK", line.accepted, id) or 0)
  redis.call("ZREM", line.accepted, id)
  local record = redis.pcall("HMGET", job, "state", "tenant", "times", "price", "plan", "runs", "due_ms")
  local payload = redis.pcall("GET", line.prefix .. "in:" .. id)
  local readable = not record.err
  local cost, weight = read_price(readable and record[4])
  last = cost or 0
  taken = taken + last
  local _, since, deadline = read_times(readable and record[3])
  local attempt, spent = read_runs(readable and record[6])
  if not (cost and deadline and attempt) or record[1] ~= "queued" or type(payload) ~= "string"
    or not (record[2] and record[5] and record[7]) then
    quarantine(line, id, tenant, now)
    return
  elseif deadline <= now then
    end_job(line, id, "expired", now,
      '{"code":"deadline_passed","message":"The job waited past its deadline. Allow it a longer ttl_ms."}',
      {tenant = tenant, attempt = attempt})
    return
  end
  attempt = attempt + 1
  local own, waited = nonce .. ":" .. looked, ""
  local fields = {"state", "running", "nonce", own, "worker", worker,
    "runs", attempt .. " " .. (spent + 1)}
  local function also(name, value)
    fields[#fields + 1] = name
    fields[#fields + 1] = value
  end
  if not alone then
    redis.call("ZADD", line.tenants, "XX", start + cost / weight, tenant)
    redis.call("HSET", line.meta, "v", string.format("%.17g", start))
    also("charged", cost)
  end
  if attempt == 1 then
    local wait = math.max(0, now - since)
    waits, wait_ms, waited = waits + 1, wait_ms + wait, ms(wait)
    also("started_ms", ms(now))
  else
    also("emitted", 0)
    if alone then
      also("charged", 0)
    end
    redis.call("XADD", line.prefix .. "out:" .. id, "*", "k", "attempt", "a", attempt, "d", "")
  end
  redis.call("HSET", job, unpack(fields))
  redis.call("ZADD", line.leases, now + tonumber(lease_ms), id)
  claims[#claims + 1] = {id, own, attempt, record[5], payload, record[7], record[4], ms(deadline),
    tenant, waited}
  mine[id] = true
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
  local popped = redis.call("ZPOPMIN", ready, alone and count - #claims or 1)
  for i = 1, #popped, 2 do
    looked = looked + 1
    take(popped[i], tenant, alone, tonumber(first[2]))
  end
  if redis.call("EXISTS", ready) == 0 then
    rest(line, tenant)
  end
end

local gone = served(line, taken) - last
if redis.call("EXISTS", line.tenants) == 1 then
  redis.call("ZADD", line.wake, 0, "work") -- the next idle worker wakes in its turn
else
  redis.call("ZREM", line.wake, "work")
  redis.call("HSET", line.meta, "backlog_tokens", 0) -- heals what an unreadable cost left behind
  gone = math.huge -- all have begun, so they had under first come first served
end
if overtaken > 0 then
  redis.call("HINCRBY", line.meta, "overtakes", overtaken)
end
if waits > 0 then
  redis.call("HINCRBY", line.meta, "waits", waits)
  redis.call("HINCRBY", line.meta, "wait_ms", string.format("%.0f", wait_ms))
end
-- Twice as many as were claimed: a backlog of these shrinks, and no call does much.
local fcfs_waits = looked > 0 and resolve(line, gone, now, mine, 2 * looked + 2) or {}
if #fcfs_waits > 0 then
  local sum = 0
  for _, wait in ipairs(fcfs_waits) do
    sum = sum + wait
  end
  redis.call("HINCRBY", line.meta, "fcfs_waits", #fcfs_waits)
  redis.call("HINCRBY", line.meta, "fcfs_wait_ms", string.format("%.0f", sum))
end
count_ended(line)
return claims
