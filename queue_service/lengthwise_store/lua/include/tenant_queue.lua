-- The queue has two levels: each tenant's jobs by due time, and the tenants by virtual time.
-- Virtual time is tokens served / weight. Start-time fair queueing (Goyal, Vin, Cheng 1996), as in
-- VTC: the tenant with the smallest is next. A tenant that returns after it was idle starts at the
-- current virtual time (`meta.v`), so that no tenant saves up credit.
-- `queue` holds the key names that the caller declared; ready:<tenant> shares their hash tag.

-- Put a job into its tenant's queue, and return the cost that waits now.
local function enter(queue, id, tenant, due, since, cost)
  redis.call("ZADD", queue.prefix .. "ready:" .. tenant, due, id)
  redis.call("ZADD", queue.accepted, since, id)
  local backlog = redis.call("HINCRBY", queue.meta, "backlog_tokens", cost)
  if not redis.call("ZSCORE", queue.tenants, tenant) then
    local own = tonumber(redis.call("HGET", queue.vt, tenant) or 0)
    local now = tonumber(redis.call("HGET", queue.meta, "v") or 0)
    redis.call("ZADD", queue.tenants, math.max(own, now), tenant)
  end
  if redis.call("HGET", queue.meta, "mode") ~= "paused" then
    redis.call("ZADD", queue.wake, 0, "work")
  end
  return backlog
end

-- Due time of a job that returns to the queue: as at its submit, by the current policy.
local function due_again(queue, job, since, slack, offset)
  local active = redis.call("HGET", queue.meta, "active") or "sjf"
  local due = since + (active == "sjf" and slack or offset)
  redis.call("HSET", job, "due_ms", string.format("%.3f", due))
  return due
end

-- Keep the virtual time of a tenant whose last job left; this also registers it for the tick.
local function rest(queue, tenant)
  local own = redis.call("ZSCORE", queue.tenants, tenant)
  redis.call("ZREM", queue.tenants, tenant)
  redis.call("HSET", queue.vt, tenant, own)
  if redis.call("EXISTS", queue.tenants) == 0 then
    local now = tonumber(redis.call("HGET", queue.meta, "v") or 0)
    redis.call("HSET", queue.meta, "v", string.format("%.17g", math.max(now, tonumber(own))))
  end
end

-- Subtract cost that no longer waits. `served` is how far first come first served would be by now.
local function served(queue, cost)
  redis.call("HINCRBY", queue.meta, "backlog_tokens", 0 - cost)
  return redis.call("HINCRBY", queue.meta, "served", cost)
end

-- Remove a job from the queue without serving it, if it is there.
local function leave(queue, id, tenant, cost)
  local ready = queue.prefix .. "ready:" .. tenant
  if redis.call("ZREM", ready, id) == 1 then
    redis.call("ZREM", queue.accepted, id)
    served(queue, cost)
    if redis.call("EXISTS", ready) == 0 then
      rest(queue, tenant)
    end
  end
end

-- Correct the charge of a tenant, by tokens / weight, once the actual length is known.
local function charge(queue, tenant, amount)
  if redis.call("ZSCORE", queue.tenants, tenant) then
    redis.call("ZINCRBY", queue.tenants, amount, tenant)
  else
    redis.call("HINCRBYFLOAT", queue.vt, tenant, amount)
  end
end

-- Change the number of a tenant's scheduled jobs, which its share of the depth counts too.
-- The tick may have forgotten a tenant whose only job ran; `stats` lists the tenants in `vt`.
local function hold(queue, tenant, by)
  if by > 0 then
    redis.call("HSETNX", queue.vt, tenant, 0)
  end
  if redis.call("HINCRBY", queue.scheduled, tenant, by) <= 0 then
    redis.call("HDEL", queue.scheduled, tenant)
  end
end
