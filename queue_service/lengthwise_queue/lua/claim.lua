--[[
claim: queued -> running | expired

Lease the next jobs to the caller: the tenant with the smallest virtual time, and of its jobs the
one that is due first. What is past its deadline ends here; what cannot be read goes to the dead
letters, and the line goes on. A paused queue gives nothing.

KEYS  the line's (include/line.lua)
ARGV  the line's, then
  count, lease_ms, nonce (random; the i-th job's is "nonce:i"), worker
RETURNS
  {{id, nonce, attempt, endpoint, payload, due_ms, predicted_tokens, deadline_ms, tenant,
    waited_ms ("" when it had run before), {what others waited under first come first served, ms}},
   ...}
]]
--@include line
--@include tenant_line
--@include fcfs_clock
--@include end_job
local count, lease_ms, nonce, worker = unpack(ARGV, 5)
count = tonumber(count)
if redis.call("HGET", line.meta, "mode") == "paused" then
  redis.call("ZREM", line.wake, "work")
  return {}
end

local claims, looked, overtaken, wait_ms, waits, fcfs_ms, fcfs = {}, 0, 0, 0, 0, 0, 0

local function count_fcfs(resolved)
  for _, wait in ipairs(resolved) do
    fcfs, fcfs_ms = fcfs + 1, fcfs_ms + wait
  end
  return resolved
end

local function take(id, tenant, alone, start)
  local job = line.prefix .. "job:" .. id
  overtaken = overtaken + (redis.call("ZRANK", line.accepted, id) or 0)
  redis.call("ZREM", line.accepted, id)
  local record = redis.pcall("HMGET", job, "state", "cost", "attempt", "spent", "endpoint",
    "due_ms", "predicted_tokens", "deadline_ms", "since_ms", "weight", "tenant")
  local payload = redis.pcall("GET", line.prefix .. "in:" .. id)
  local cost = not record.err and tonumber(record[2]) or 0
  local gone = served(line, cost) - cost
  if record.err or record[1] ~= "queued" or type(payload) ~= "string" or not (cost > 0
    and tonumber(record[3]) and tonumber(record[4]) and record[5] and tonumber(record[6])
    and tonumber(record[7]) and tonumber(record[8]) and tonumber(record[9])
    and tonumber(record[10]) and record[11]) then
    quarantine(line, id, tenant, now)
    return
  elseif tonumber(record[8]) <= now then
    end_job(line, id, "expired", now,
      '{"code":"deadline_passed","message":"The job waited past its deadline. Allow it a longer ttl_ms."}',
      {tenant = tenant, attempt = record[3]})
    return
  end
  local share = cost / record[10]
  if not alone then
    redis.call("ZADD", line.tenants, "XX", start + share, tenant)
    redis.call("HSET", line.meta, "v", string.format("%.17g", start))
  end
  local attempt, mine, waited = record[3] + 1, nonce .. ":" .. looked, ""
  local fields = {"state", "running", "nonce", mine, "worker", worker, "attempt", attempt,
    "spent", record[4] + 1, "emitted", 0, "charged", alone and 0 or cost}
  local function also(name, value)
    fields[#fields + 1] = name
    fields[#fields + 1] = value
  end
  local resolved, own = resolve(line, gone, now, id)
  if own then
    also("fcfs_wait_ms", own)
  end
  if attempt == 1 then
    local wait = math.max(0, now - record[9])
    waits, wait_ms, waited = waits + 1, wait_ms + wait, string.format("%.3f", wait)
    also("started_ms", string.format("%.3f", now))
  else
    redis.call("XADD", line.prefix .. "out:" .. id, "*", "k", "attempt", "a", attempt, "d", "")
  end
  redis.call("HSET", job, unpack(fields))
  redis.call("ZADD", line.leases, now + tonumber(lease_ms), id)
  claims[#claims + 1] = {id, mine, attempt, record[5], payload, record[6], record[7], record[8],
    tenant, waited, count_fcfs(resolved)}
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

if redis.call("EXISTS", line.tenants) == 1 then
  redis.call("ZADD", line.wake, 0, "work") -- the next idle worker wakes in its turn
else
  redis.call("ZREM", line.wake, "work")
  redis.call("HSET", line.meta, "backlog_tokens", 0) -- heals what an unreadable cost left behind
  if #claims > 0 then -- all have begun, so they had under first come first served
    local rest_of_them = resolve(line, math.huge, now, nil)
    for _, wait in ipairs(count_fcfs(rest_of_them)) do
      table.insert(claims[#claims][11], wait)
    end
  end
end
if overtaken > 0 then
  redis.call("HINCRBY", line.meta, "overtakes", overtaken)
end
if waits > 0 then
  redis.call("HINCRBY", line.meta, "waits", waits)
  redis.call("HINCRBY", line.meta, "wait_ms", string.format("%.0f", wait_ms))
end
if fcfs > 0 then
  redis.call("HINCRBY", line.meta, "fcfs_waits", fcfs)
  redis.call("HINCRBY", line.meta, "fcfs_wait_ms", string.format("%.0f", fcfs_ms))
end
return claims
