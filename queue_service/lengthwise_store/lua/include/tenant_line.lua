-- The line in its two levels: each tenant's jobs by due time, the tenants by virtual time.
-- Virtual time is tokens served / weight. Start-time fair queueing (Goyal, Vin, Cheng 1996), as in
-- VTC: the tenant with the smallest is next; one that comes back from idleness starts at the
-- virtual time of now (`meta.v`), so that nobody hoards credit.
-- `line` holds the key names that the caller declared; ready:<tenant> shares their hash tag.

-- Put a job into its tenant's line; the cost that waits now.
local function enter(line, id, tenant, due, since, cost)
  redis.call("ZADD", line.prefix .. "ready:" .. tenant, due, id)
  redis.call("ZADD", line.accepted, since, id)
  local backlog = redis.call("HINCRBY", line.meta, "backlog_tokens", cost)
  if not redis.call("ZSCORE", line.tenants, tenant) then
    local own = tonumber(redis.call("HGET", line.vt, tenant) or 0)
    local now = tonumber(redis.call("HGET", line.meta, "v") or 0)
    redis.call("ZADD", line.tenants, math.max(own, now), tenant)
  end
  if redis.call("HGET", line.meta, "mode") ~= "paused" then
    redis.call("ZADD", line.wake, 0, "work")
  end
  return backlog
end

-- When a job that comes back falls due: as at its submit, by the policy of now.
local function due_again(line, job, since, slack, offset)
  local active = redis.call("HGET", line.meta, "active") or "sjf"
  local due = since + (active == "sjf" and slack or offset)
  redis.call("HSET", job, "due_ms", string.format("%.3f", due))
  return due
end

-- A tenant whose last job left keeps its virtual time; that also registers it for the tick.
local function rest(line, tenant)
  local own = redis.call("ZSCORE", line.tenants, tenant)
  redis.call("ZREM", line.tenants, tenant)
  redis.call("HSET", line.vt, tenant, own)
  if redis.call("EXISTS", line.tenants) == 0 then
    local now = tonumber(redis.call("HGET", line.meta, "v") or 0)
    redis.call("HSET", line.meta, "v", string.format("%.17g", math.max(now, tonumber(own))))
  end
end

-- Cost that is no longer waiting. `served` tells how far first come first served would be by now.
local function served(line, cost)
  redis.call("HINCRBY", line.meta, "backlog_tokens", 0 - cost)
  return redis.call("HINCRBY", line.meta, "served", cost)
end

-- Take a job out of the line without serving it, if it is there.
local function leave(line, id, tenant, cost)
  local ready = line.prefix .. "ready:" .. tenant
  if redis.call("ZREM", ready, id) == 1 then
    redis.call("ZREM", line.accepted, id)
    served(line, cost)
    if redis.call("EXISTS", ready) == 0 then
      rest(line, tenant)
    end
  end
end

-- Correct what a tenant was charged, by tokens / weight, when the actual length is known.
local function charge(line, tenant, amount)
  if redis.call("ZSCORE", line.tenants, tenant) then
    redis.call("ZINCRBY", line.tenants, amount, tenant)
  else
    redis.call("HINCRBYFLOAT", line.vt, tenant, amount)
  end
end

-- How many of a tenant's jobs are scheduled; its share of the depth counts them too.
local function hold(line, tenant, by)
  if redis.call("HINCRBY", line.scheduled, tenant, by) <= 0 then
    redis.call("HDEL", line.scheduled, tenant)
  end
end
