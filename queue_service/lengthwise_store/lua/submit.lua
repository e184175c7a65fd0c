--[[
submit: none -> queued | scheduled

Accept jobs, each once: repeating the call with the same id or idempotency key finds the same job.
Jobs submitted together cost a third less each. One that cannot be written does not stop the others.

KEYS  the queue's (include/queue.lua), then for each job
  job    hash    this job's record
  body   string  this job's request body
  idem   string  "fingerprint id" of the job that owns the idempotency key
  rate   hash    the tenant's token buckets: requests, tokens, at (ms since the epoch)
ARGV  the queue's, then for each job
  id, payload, tenant, cost, price (include/record.lua), plan ("max_attempts class endpoint", and
  the id of the request if there is one), quantiles, predictor ("" and "" without a prediction), delay_ms, ttl_ms, max_depth, tenant_max_depth,
  requests_per_minute, tokens_per_minute (each "" for no limit), idempotent ("1" or ""),
  fingerprint, learning (include/record.lua), view ("cap bytes"; each "" if there is none)
RETURNS  a list, for each job one of
  {"ok" | "duplicate", id, state, accepted_ms, due_ms}
  {"reused", id}                the idempotency key belongs to a different request
  {"full" | "tenant_full", depth} | {"draining"} | {"limited", "requests" | "tokens", wait_ms}
                                nothing was written
  {"error", message}            a key of this job has another type
]]
--@include queue
--@include record
--@include tenant_queue
--@include fcfs_clock
--@include rate
local function duplicate(owner)
  local old = redis.call("HMGET", queue.prefix .. "job:" .. owner, "state", "times", "due_ms")
  return old[1] and {"duplicate", owner, old[1], string.match(old[2], "^%S+"), old[3]}
end

local views = {} -- id, view, ... of the accepted jobs; finish.lua makes evidence of them

local function submit(job, body, idem, rate, id, payload, tenant, cost, price, plan, quantiles,
  predictor, delay_ms, ttl_ms, max_depth, tenant_max_depth, requests_per_minute, tokens_per_minute,
  idempotent, fingerprint, learning, view)
  cost = tonumber(cost)
  local again = duplicate(id)
  if again then
    return again
  end
  if idempotent == "1" then
    local owner = redis.call("GET", idem)
    local first = owner and duplicate(string.match(owner, " (.*)$"))
    if first then
      return string.match(owner, "^[^ ]*") == fingerprint and first or {"reused", first[2]}
    end
  end

  local meta = redis.call("HMGET", queue.meta, "mode", "active", "served")
  if meta[1] == "draining" then
    return {"draining"}
  end
  local depth = redis.call("ZCARD", queue.accepted) + redis.call("ZCARD", queue.delayed)
  if depth >= tonumber(max_depth) then
    return {"full", depth}
  end
  if tenant_max_depth ~= "" then
    local own = redis.call("ZCARD", queue.prefix .. "ready:" .. tenant)
      + (redis.call("HGET", queue.scheduled, tenant) or 0)
    if own >= tonumber(tenant_max_depth) then
      return {"tenant_full", own}
    end
  end
  local limit, wait_ms = spend(rate, now, requests_per_minute, tokens_per_minute, cost)
  if limit then
    return {"limited", limit, wait_ms}
  end

  local delay, active = tonumber(delay_ms), meta[2] or "sjf"
  local since = now + delay
  local deadline = since + tonumber(ttl_ms)
  local _, _, slack, offset = read_price(price)
  local due = since + (active == "sjf" and slack or offset)
  local state = delay > 0 and "scheduled" or "queued"
  local accepted_text, due_text = ms(now), ms(due)
  local since_text = delay > 0 and ms(since) or accepted_text
  local planned, request = string.match(plan, "^(%S+ %S+ %S+) ?(.*)$")
  local fields = {"state", state, "tenant", tenant, "price", price, "plan", planned .. " " .. active,
    "times", accepted_text .. " " .. since_text .. " " .. ms(deadline), "runs", "0 0",
    "due_ms", due_text}
  local function also(name, value)
    fields[#fields + 1] = name
    fields[#fields + 1] = value
  end
  if quantiles ~= "" then
    also("quantiles", quantiles)
    also("predictor", predictor)
  else
    redis.call("HINCRBY", queue.meta, "fallbacks", 1)
  end
  if learning ~= "" then
    also("learning", learning)
  end
  if request ~= "" then
    also("request", request)
  end
  if tokens_per_minute ~= "" then
    also("metered", "1")
  end
  redis.call("HSET", job, unpack(fields))
  redis.call("SET", body, payload)
  redis.call("ZADD", queue.deadlines, deadline, id)
  redis.call("HINCRBY", queue.meta, "accepted", 1)
  if idempotent == "1" then
    local keep = delay + tonumber(ttl_ms) + tonumber(queue.retention_ms)
    redis.call("SET", idem, fingerprint .. " " .. id, "PX", string.format("%.0f", keep))
  end
  if delay > 0 then
    redis.call("ZADD", queue.delayed, since, id)
    hold(queue, tenant, 1)
  else
    local backlog = enter(queue, id, tenant, due, since, cost)
    mark(queue, id, since, cost, backlog, meta[3] or 0)
  end
  if view ~= "" then
    views[#views + 1] = id
    views[#views + 1] = view
  end
  return {"ok", id, state, accepted_text, due_text}
end

local SERVER_WIDE = {OOM = true, READONLY = true, MISCONF = true, NOREPLICAS = true, NOPERM = true}
local answers = {}
for i = 0, (#KEYS - 11) / 4 - 1 do
  local job, body, idem, rate = unpack(KEYS, 12 + 4 * i, 15 + 4 * i)
  local well, answer = pcall(submit, job, body, idem, rate, unpack(ARGV, 5 + 18 * i, 22 + 18 * i))
  if not well then
    local message = type(answer) == "table" and answer.err or tostring(answer)
    if SERVER_WIDE[string.match(message, "^%u+")] then
      return {err = message} -- as from every other script: it concerns all jobs
    end
    answer = {"error", message}
  end
  answers[i + 1] = answer
end
if #views > 0 then
  redis.call("HSET", queue.views, unpack(views))
end
return answers
