--[[
finish: running -> succeeded | failed | queued | scheduled | cancelled | expired

End a claim. Repeating a call whose reply was lost, with the same nonce, answers the same.
A job that goes back to the line keeps its due time, so it does not lose its place.

KEYS
  job        hash    this job's record
  out        stream  this job's output
  ready      zset    job id -> due time, ms since the epoch
  accepted   zset    id of a queued job -> when it was accepted, ms since the epoch
  leases     zset    job id -> lease end, ms since the epoch
  delayed    zset    job id -> not before, ms since the epoch
  deadlines  zset    job id -> deadline, ms since the epoch
  finished   zset    job id -> when it ended
  dead       zset    id of a failed job -> when it ended
  wake       zset    one marker while there is work
  meta       hash    counters
  lengths    list    output tokens of the last answers, newest first
ARGV
  prefix, now_ms, id, nonce, outcome ("ok", "error", "retry", "release", "cancelled"),
  prompt_tokens, output_tokens, service_ms ("" when unknown), error (JSON or ""), delay_ms,
  retention_ms, dead_retention_ms, first, then the last pieces of the answer
RETURNS
  {"ok", state} | {"lost"}
]]
--@include end_job
local job, out, ready, accepted, leases, delayed, deadlines, finished, dead, wake, meta, lengths =
  unpack(KEYS)
local prefix, now_ms, id, nonce, outcome, prompt_tokens, output_tokens, service_ms, error_json,
  delay_ms, retention_ms, dead_retention_ms, first = unpack(ARGV, 1, 13)
local now = tonumber(now_ms)
if not now then
  local time = redis.call("TIME")
  now = time[1] * 1000 + time[2] / 1000
end
local line = {prefix = prefix, deadlines = deadlines, finished = finished, dead = dead, meta = meta,
  retention_ms = retention_ms, dead_retention_ms = dead_retention_ms}

local record = redis.call("HMGET", job, "state", "nonce", "cancel", "attempt", "emitted", "spent",
  "max_attempts", "due_ms", "accepted_ms", "cost", "done_nonce", "done_state")
local state, cancel, spent = record[1], record[3], tonumber(record[6])
if record[11] == nonce then
  return {"ok", record[12]}
elseif state ~= "running" or record[2] ~= nonce then
  return {"lost"}
end
for i = 14 + math.max(0, tonumber(record[5]) - tonumber(first)), #ARGV do
  redis.call("XADD", out, "*", "k", "chunk", "a", record[4], "d", ARGV[i])
  redis.call("HSETNX", job, "first_output_ms", string.format("%.3f", now))
end
redis.call("ZREM", leases, id)
if prompt_tokens ~= "" then
  redis.call("HSET", job, "prompt_tokens", prompt_tokens)
end
if output_tokens ~= "" then
  redis.call("HSET", job, "output_tokens", output_tokens)
end

local target
if cancel then
  target = cancel
elseif outcome == "ok" then
  target = "succeeded"
  if service_ms ~= "" and tonumber(output_tokens or "") and tonumber(output_tokens) > 0 then
    -- Ratio of two sums that forget with a half-life of 34 answers (0.98 ^ 34 = 0.5), so that a
    -- long answer weighs by its tokens and a change of load shows within a few dozen answers.
    local ms = tonumber(redis.call("HGET", meta, "sum_ms") or 0) * 0.98 + service_ms
    local tokens = tonumber(redis.call("HGET", meta, "sum_tokens") or 0) * 0.98 + output_tokens
    redis.call("HSET", meta, "sum_ms", string.format("%.3f", ms), "sum_tokens", string.format("%.3f", tokens))
    redis.call("LPUSH", lengths, output_tokens)
    redis.call("LTRIM", lengths, 0, 255)
  end
elseif outcome == "error" or (outcome == "retry" and spent >= tonumber(record[7])) then
  target = "failed"
elseif outcome == "retry" or tonumber(delay_ms) > 0 then
  target = "scheduled"
else
  target = "queued"
end
redis.call("HSET", job, "done_nonce", nonce, "done_state", target)
if target ~= "queued" and target ~= "scheduled" then
  end_job(line, id, target, now, error_json)
  return {"ok", target}
end

redis.call("HDEL", job, "nonce", "worker")
redis.call("HSET", job, "state", target, "spent", outcome == "retry" and spent or spent - 1)
redis.call("HINCRBY", meta, outcome == "retry" and "retried" or "released", 1)
if target == "scheduled" then
  redis.call("ZADD", delayed, now + tonumber(delay_ms), id)
else
  redis.call("ZADD", ready, record[8], id)
  redis.call("ZADD", accepted, record[9], id)
  redis.call("HINCRBY", meta, "backlog_tokens", record[10])
  redis.call("ZADD", wake, 0, "work")
end
return {"ok", target}
