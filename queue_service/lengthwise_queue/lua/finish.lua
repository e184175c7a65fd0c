--[[
finish: running -> succeeded | failed | queued | scheduled | cancelled | expired

End a claim. Repeating a call whose reply was lost, with the same nonce, answers the same.
A job that goes back to the line keeps its due time, so it does not lose its place.

KEYS  the line's (include/line.lua), then
  job      hash    this job's record
  out      stream  this job's output
  lengths  list    "predicted actual quantiles" of the last answers, tokens, newest first
ARGV  the line's, then
  id, nonce, outcome ("ok", "error", "retry", "release", "cancelled"), prompt_tokens, output_tokens,
  service_ms (each "" when unknown), error (JSON or ""), delay_ms, first, then the last pieces
RETURNS
  {"ok", state} | {"lost"}
]]
--@include line
--@include tenant_line
--@include end_job
local job, out, lengths = unpack(KEYS, 11)
local id, nonce, outcome, prompt_tokens, output_tokens, service_ms, error_json, delay_ms, first =
  unpack(ARGV, 5, 13)

local record = redis.call("HMGET", job, "state", "nonce", "cancel", "attempt", "emitted", "spent",
  "max_attempts", "slack_ms", "since_ms", "cost", "done_nonce", "done_state", "tenant", "weight",
  "charged", "predicted_tokens", "quantiles", "metered", "offset_ms")
local cancel, spent, tenant = record[3], tonumber(record[6]), record[13]
if record[11] == nonce then
  return {"ok", record[12]}
elseif record[1] ~= "running" or record[2] ~= nonce then
  return {"lost"}
end
local from = 14 + math.max(0, tonumber(record[5]) - tonumber(first))
for i = from, #ARGV do
  redis.call("XADD", out, "*", "k", "chunk", "a", record[4], "d", ARGV[i])
end
if from <= #ARGV then
  redis.call("HSETNX", job, "first_output_ms", string.format("%.3f", now))
end
redis.call("ZREM", line.leases, id)

local target
if cancel then
  target = cancel
elseif outcome == "ok" then
  target = "succeeded"
elseif outcome == "error" or (outcome == "retry" and spent >= tonumber(record[7])) then
  target = "failed"
elseif outcome == "retry" or tonumber(delay_ms) > 0 then
  target = "scheduled"
else
  target = "queued"
end

-- Tenants pay for what was really used; nothing for a claim that was handed back.
local used = outcome == "release" and 0 or tonumber(output_tokens)
local charged = tonumber(record[15] or "0")
if used and charged > 0 and used ~= charged then
  charge(line, tenant, (used - charged) / record[14])
end
if used and record[18] and outcome ~= "release" then
  redis.call("HINCRBYFLOAT", line.prefix .. "rate:" .. tenant, "tokens", record[10] - used)
end
if target == "succeeded" and service_ms ~= "" and used and used > 0 then
  -- Ratio of two sums that forget with a half-life of 34 answers (0.98 ^ 34 = 0.5), so that a
  -- long answer weighs by its tokens and a change of load shows within a few dozen answers.
  local sums = redis.call("HMGET", line.meta, "sum_ms", "sum_tokens")
  redis.call("HSET", line.meta,
    "sum_ms", string.format("%.3f", (sums[1] or 0) * 0.98 + service_ms),
    "sum_tokens", string.format("%.3f", (sums[2] or 0) * 0.98 + used))
  redis.call("LPUSH", lengths, (record[17] and record[16] or "") .. " " .. output_tokens
      .. (record[17] and " " .. record[17] or ""))
  redis.call("LTRIM", lengths, 0, 255)
end

local fields = {"done_nonce", nonce, "done_state", target}
local function also(name, value)
  if value ~= "" then
    fields[#fields + 1] = name
    fields[#fields + 1] = value
  end
end
also("prompt_tokens", prompt_tokens)
also("output_tokens", output_tokens)
if target ~= "queued" and target ~= "scheduled" then
  end_job(line, id, target, now, error_json, {tenant = tenant, attempt = record[4],
    prompt_tokens = prompt_tokens, output_tokens = output_tokens}, fields)
  return {"ok", target}
end

also("state", target)
also("spent", outcome == "retry" and spent or spent - 1)
redis.call("HSET", job, unpack(fields))
redis.call("HDEL", job, "nonce", "worker")
redis.call("HINCRBY", line.meta, outcome == "retry" and "retried" or "released", 1)
if target == "scheduled" then
  redis.call("ZADD", line.delayed, now + tonumber(delay_ms), id)
  hold(line, tenant, 1)
else
  local due = due_again(line, job, record[9], record[8], record[19])
  enter(line, id, tenant, due, record[9], record[10])
end
return {"ok", target}
