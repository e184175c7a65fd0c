--[[
finish: running -> succeeded | failed | queued | scheduled | cancelled | expired

End claims. Repeating a call whose reply was lost, with the same nonces, answers the same.
A job that goes back to the line keeps its due time, so it does not lose its place.

KEYS  the line's (include/line.lua), then
  lengths  list  "predicted actual service_ms quantiles @seconds" of the last answers, newest first
ARGV  the line's, then for each claim
  id, nonce, outcome ("ok", "error", "retry", "release", "cancelled"), prompt_tokens, output_tokens,
  service_ms (each "" when unknown), error (JSON or ""), delay_ms, first, n, and the last n pieces
RETURNS
  {state | "lost", ...}   in the order of the claims
]]
--@include line
--@include record
--@include tenant_line
--@include end_job
local lengths = unpack(KEYS, 12)
local released, answered, at_ms = {}, {}, ms(now)
local ENDED = {succeeded = true, failed = true, cancelled = true, expired = true}

local function finish(id, nonce, outcome, prompt_tokens, output_tokens, service_ms, error_json,
  delay_ms, first, pieces_from, pieces_to)
  local job, out = line.prefix .. "job:" .. id, line.prefix .. "out:" .. id
  local record = redis.pcall("HMGET", job, "state", "nonce", "cancel", "runs", "emitted", "tenant",
    "price", "charged", "quantiles", "metered")
  if record.err then -- one damaged record must not keep the others from ending
    return "lost"
  end
  local cancel, tenant = record[3], record[6]
  local emitted = tonumber(record[5] or "0")
  if record[1] ~= "running" or record[2] ~= nonce then
    -- Perhaps it was said before: the job ended by this very claim, or went back to the line.
    if record[2] == nonce and ENDED[record[1]] then
      return record[1]
    end
    local by, state = string.match(redis.call("HGET", job, "done") or "", "^(%S+) (%S+)$")
    return by == nonce and state or "lost"
  elseif tonumber(first) > emitted then
    return "lost" -- see emit
  end
  local attempt, spent = read_runs(record[4])
  local from = pieces_from + math.max(0, emitted - first)
  for i = from, pieces_to do
    local kind = emitted == 0 and i == from and "first" or "chunk" -- as in emit
    redis.call("XADD", out, "*", "k", kind, "a", attempt, "d", ARGV[i])
  end
  released[#released + 1] = id

  local target
  if cancel then
    target = cancel
  elseif outcome == "ok" then
    target = "succeeded"
  elseif outcome == "error" or (outcome == "retry"
    and spent >= read_max_attempts(redis.call("HGET", job, "plan"))) then
    target = "failed"
  elseif outcome == "retry" or tonumber(delay_ms) > 0 then
    target = "scheduled"
  else
    target = "queued"
  end

  -- Tenants pay for what was really used; nothing for a claim that was handed back.
  local used = outcome == "release" and 0 or tonumber(output_tokens)
  local charged = tonumber(record[8] or "0")
  if used and charged > 0 and used ~= charged then
    local _, weight = read_price(record[7])
    charge(line, tenant, (used - charged) / weight)
  end
  if used and record[10] and outcome ~= "release" then
    redis.call("HINCRBYFLOAT", line.prefix .. "rate:" .. tenant, "tokens", read_price(record[7]) - used)
  end
  if target == "succeeded" and used and used > 0 then
    local predicted = record[9] and string.match(record[7], "^%S+ %S+ %S+ %S+ (%S+) %S+$") or ""
    answered[#answered + 1] = predicted .. " " .. output_tokens .. " " .. service_ms
      .. (record[9] and " " .. record[9] or "") .. string.format(" @%d", now / 1000)
  end

  local fields = {}
  if prompt_tokens ~= "" or output_tokens ~= "" then
    fields[1], fields[2] = "usage", prompt_tokens .. " " .. output_tokens
  end
  if from <= pieces_to then
    if attempt == 1 and not record[5] then
      fields[#fields + 1] = "first_output_ms"
      fields[#fields + 1] = at_ms
    else
      redis.call("HSETNX", job, "first_output_ms", ms(now))
    end
  end
  if target ~= "queued" and target ~= "scheduled" then
    local spoke = attempt > 1 or emitted > 0 or from <= pieces_to
    end_job(line, id, target, now, error_json, tenant, attempt, spoke, fields, prompt_tokens,
      output_tokens)
    return target
  end

  redis.call("HSET", job, "done", nonce .. " " .. target, "state", target,
    "runs", attempt .. " " .. (outcome == "retry" and spent or spent - 1), unpack(fields))
  redis.call("HINCRBY", line.meta, outcome == "retry" and "retried" or "released", 1)
  if target == "scheduled" then
    redis.call("ZADD", line.delayed, now + tonumber(delay_ms), id)
    hold(line, tenant, 1)
  else
    local _, since = read_times(redis.call("HGET", job, "times"))
    local cost, _, slack, offset = read_price(record[7])
    enter(line, id, tenant, due_again(line, job, since, slack, offset), since, cost)
  end
  return target
end

local answers, at = {}, 5
while at <= #ARGV do
  local id, nonce, outcome, prompt_tokens, output_tokens, service_ms, error_json, delay_ms, first, n =
    unpack(ARGV, at, at + 9)
  at = at + 10 + n
  answers[#answers + 1] = finish(id, nonce, outcome, prompt_tokens, output_tokens, service_ms,
    error_json, delay_ms, first, at - n, at - 1)
end
on_many("ZREM", line.leases, released)
if #answered > 0 then
  on_many("LPUSH", lengths, answered)
  if redis.call("LLEN", lengths) > 320 then
    redis.call("LTRIM", lengths, 0, 255)
  end
end
settle(line)
return answers
