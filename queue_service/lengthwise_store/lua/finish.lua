--[[
finish: running -> succeeded | failed | queued | scheduled | cancelled | expired

End claims. Repeating a call whose reply was lost, with the same nonces, answers the same.
A job that goes back to the line keeps its due time, so it does not lose its place.

KEYS  the line's (include/line.lua), then
  lengths  list  "predicted actual service_ms quantiles @seconds" of the last answers, newest first
ARGV  the line's, then for each claim
  id, nonce, outcome ("ok", "error", "retry", "release", "cancelled"),
  usage ("prompt output", tokens, each "" when unknown), length ("output service_ms" of an answer
  that has one, or ""), n, and n more: none, or error (JSON or ""), delay_ms, first, the last pieces
RETURNS
  {state | "lost", ...}   in the order of the claims
]]
--@include line
--@include record
--@include tenant_line
--@include end_job
local lengths = unpack(KEYS, 12)
local released, answered, at_ms = {}, {}, ms(now)
local at_s = string.format(" @%d", now / 1000) -- behind each of the answers
local ENDED = {succeeded = true, failed = true, cancelled = true, expired = true}

local function finish(id, nonce, outcome, usage, length, error_json, delay_ms, first, pieces_from,
  pieces_to)
  local job = line.prefix .. "job:" .. id
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
  elseif first > emitted then
    return "lost" -- see emit
  end
  local attempt, spent = read_runs(record[4])
  local from = pieces_from + math.max(0, emitted - first)
  for i = from, pieces_to do
    local kind = emitted == 0 and i == from and "first" or "chunk" -- as in emit
    redis.call("XADD", line.prefix .. "out:" .. id, "*", "k", kind, "a", attempt, "d", ARGV[i])
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
  elseif outcome == "retry" or delay_ms > 0 then
    target = "scheduled"
  else
    target = "queued"
  end

  -- Tenants pay for what was really used; nothing for a claim that was handed back.
  if record[8] or record[10] then
    local used = outcome == "release" and 0 or tonumber(string.match(usage, "%d*$"))
    local cost, weight = read_price(record[7])
    local charged = tonumber(record[8] or "0")
    if used and charged > 0 and used ~= charged then
      charge(line, tenant, (used - charged) / weight)
    end
    if used and record[10] and outcome ~= "release" then
      redis.call("HINCRBYFLOAT", line.prefix .. "rate:" .. tenant, "tokens", cost - used)
    end
  end
  if target == "succeeded" and length ~= "" then
    if record[9] then
      local predicted = string.match(record[7], "^%S+ %S+ %S+ %S+ (%S+) %S+$")
      length = predicted .. " " .. length .. " " .. record[9] .. at_s
    else
      length = " " .. length .. at_s
    end
    answered[#answered + 1] = length
  end

  local fields = usage ~= "" and {"usage", usage} or {}
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
    end_job(line, id, target, now, error_json, tenant, attempt, spoke, fields, usage)
    return target
  end

  redis.call("HSET", job, "done", nonce .. " " .. target, "state", target,
    "runs", attempt .. " " .. (outcome == "retry" and spent or spent - 1), unpack(fields))
  redis.call("HINCRBY", line.meta, outcome == "retry" and "retried" or "released", 1)
  if target == "scheduled" then
    redis.call("ZADD", line.delayed, now + delay_ms, id)
    hold(line, tenant, 1)
  else
    local since = read_times(redis.call("HGET", job, "times"))
    local cost, _, slack, offset = read_price(record[7])
    enter(line, id, tenant, due_again(line, job, since, slack, offset), since, cost)
  end
  return target
end

local answers, at, last = {}, 5, #ARGV
while at <= last do
  local id, nonce, outcome, usage, length, n = unpack(ARGV, at, at + 5)
  local error_json, delay_ms, first, from = "", 0, 0, at + 6
  at = from + n
  if n ~= "0" then
    error_json, delay_ms, first = unpack(ARGV, from, from + 2)
    from, delay_ms, first = from + 3, tonumber(delay_ms), tonumber(first)
  end
  answers[#answers + 1] =
    finish(id, nonce, outcome, usage, length, error_json, delay_ms, first, from, at - 1)
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
