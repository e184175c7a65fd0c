--[[
submit: none -> queued | scheduled

Accept a job, once: repeating the call with the same id or idempotency key finds the same job.

KEYS
  job        hash    this job's record
  body       string  this job's request body
  idem       string  "fingerprint id" of the job that owns the idempotency key
  ready      zset    job id -> due time, ms since the epoch
  accepted   zset    id of a queued job -> when it was accepted, ms since the epoch
  delayed    zset    job id -> not before, ms since the epoch
  deadlines  zset    job id -> deadline, ms since the epoch
  wake       zset    one marker while there is work
  meta       hash    counters
ARGV
  prefix, now_ms, id, payload, endpoint, class, policy, slack_ms, predicted_tokens, predicted_ms,
  prediction (JSON or ""), max_attempts, delay_ms, ttl_ms, max_depth,
  idempotent ("1" or ""), fingerprint, retention_ms
RETURNS
  {"ok" | "duplicate", id, state, accepted_ms, due_ms}
  {"reused", id}             the idempotency key belongs to a different request
  {"full", depth}            nothing was written
]]
local job, body, idem, ready, accepted, delayed, deadlines, wake, meta = unpack(KEYS)
local prefix, now_ms, id, payload, endpoint, class, policy, slack_ms, predicted_tokens,
  predicted_ms, prediction, max_attempts, delay_ms, ttl_ms, max_depth, idempotent, fingerprint,
  retention_ms = unpack(ARGV)
local now = tonumber(now_ms)
if not now then
  local time = redis.call("TIME")
  now = time[1] * 1000 + time[2] / 1000
end

local function duplicate(owner)
  local old = redis.call("HMGET", prefix .. "job:" .. owner, "state", "accepted_ms", "due_ms")
  return old[1] and {"duplicate", owner, old[1], old[2], old[3]}
end

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
local depth = redis.call("ZCARD", ready) + redis.call("ZCARD", delayed)
if depth >= tonumber(max_depth) then
  return {"full", depth}
end

local delay, cost = tonumber(delay_ms), math.max(1, math.floor(predicted_tokens + 0.5))
local due, deadline = now + delay + tonumber(slack_ms), now + delay + tonumber(ttl_ms)
local state = delay > 0 and "scheduled" or "queued"
local accepted_text, due_text = string.format("%.3f", now), string.format("%.3f", due)
redis.call("HSET", job, "v", "1", "state", state, "endpoint", endpoint, "class", class,
  "policy", policy, "slack_ms", slack_ms, "predicted_tokens", predicted_tokens,
  "predicted_ms", predicted_ms, "prediction", prediction, "cost", cost,
  "max_attempts", max_attempts, "attempt", 0, "spent", 0, "emitted", 0,
  "accepted_ms", accepted_text, "due_ms", due_text, "deadline_ms", string.format("%.3f", deadline))
redis.call("SET", body, payload)
redis.call("ZADD", deadlines, deadline, id)
redis.call("HINCRBY", meta, "accepted", 1)
if prediction == "" then
  redis.call("HINCRBY", meta, "fallbacks", 1)
end
if idempotent == "1" then
  local keep = delay + tonumber(ttl_ms) + tonumber(retention_ms)
  redis.call("SET", idem, fingerprint .. " " .. id, "PX", string.format("%.0f", keep))
end
if delay > 0 then
  redis.call("ZADD", delayed, now + delay, id)
else
  redis.call("ZADD", ready, due, id)
  redis.call("ZADD", accepted, now, id)
  redis.call("HINCRBY", meta, "backlog_tokens", cost)
  redis.call("ZADD", wake, 0, "work")
end
return {"ok", id, state, accepted_text, due_text}
