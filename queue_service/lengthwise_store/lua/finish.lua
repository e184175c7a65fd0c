--[[
finish: running -> succeeded | failed | queued | scheduled | cancelled | expired

End claims. Repeating a call whose reply was lost, with the same nonces, returns the same.
A job that returns to the queue keeps its due time, so it does not lose its place.

KEYS  the queue's (include/queue.lua), then
  lengths  list  "predicted actual service_ms quantiles learning @seconds" of the last answers,
                 the newest first; the quantiles and the learning are those of the job's record
  evidence list  "id tokens cap view" of the last answers that are learned from, the newest first
ARGV  the queue's, then for each claim
  id, nonce, outcome ("ok", "error", "retry", "release", "cancelled"),
  usage ("prompt output details", tokens, each "" when unknown, and JSON or ""), length ("output service_ms" of an answer
  that has one, or ""), n, and n more: none, or error (JSON or ""), delay_ms, first, the last pieces
RETURNS
  {state | "lost", ...}   in the order of the claims
]]
--@include queue
--@include record
--@include tenant_queue
--@include end_job
local lengths, evidence = unpack(KEYS, 12, 13)
local released, answered, at_ms = {}, {}, ms(now)
local learned, length_of = {}, {} -- ids of the jobs with a view, and the length of each answer
local at_s = string.format(" @%d", now / 1000) -- behind each answer
local ENDED = {succeeded = true, failed = true, cancelled = true, expired = true}

local function finish(id, nonce, outcome, usage, length, error_json, delay_ms, first, pieces_from,
  pieces_to)
  local job = queue.prefix .. "job:" .. id
  local record = redis.pcall("HMGET", job, "state", "nonce", "cancel", "runs", "emitted", "tenant",
    "price", "charged", "quantiles", "metered", "learning", "times")
  if record.err then -- one damaged record must not stop the others from ending
    return "lost"
  end
  local cancel, tenant = record[3], record[6]
  local emitted = tonumber(record[5] or "0")
  if record[1] ~= "running" or record[2] ~= nonce then
    -- A repeated call: this claim has already ended the job, or returned it to the queue.
    if record[2] == nonce and ENDED[record[1]] then
      return record[1]
    end
    local by, state = string.match(redis.call("HGET", job, "done") or "", "^(%S+) (%S+)$")
    return by == nonce and state or "lost"
  end
  local attempt, spent = read_runs(record[4])
  local cost, weight, slack, offset = read_price(record[7])
  local since = read_times(record[12])
  if not (attempt and offset and since and tenant and emitted) then
    released[#released + 1] = id
    quarantine(queue, id, tenant or "default", now)
    return "failed"
  elseif first > emitted then
    return "lost" -- see emit.lua
  end
  local from = pieces_from + math.max(0, emitted - first)
  for i = from, pieces_to do
    local kind = emitted == 0 and i == from and "first" or "chunk" -- as in emit.lua
    append(queue.prefix .. "out:" .. id, "k", kind, "a", attempt, "d", ARGV[i])
  end
  released[#released + 1] = id

  local target
  if cancel then
    target = cancel
  elseif outcome == "ok" then
    target = "succeeded"
  elseif outcome == "error" or (outcome == "retry"
    and spent >= (read_max_attempts(redis.call("HGET", job, "plan")) or 0)) then
    target = "failed"
  elseif outcome == "retry" or delay_ms > 0 then
    target = "scheduled"
  else
    target = "queued"
  end

  -- Tenants are charged what was really used, and nothing for a claim that was put back.
  if record[8] or record[10] then
    local used = outcome == "release" and 0 or tonumber(string.match(usage, "^%d* (%d*)") or "")
    local charged = tonumber(record[8] or "0")
    if used and charged > 0 and used ~= charged then
      charge(queue, tenant, (used - charged) / weight)
    end
    if used and record[10] and outcome ~= "release" then
      redis.call("HINCRBYFLOAT", queue.prefix .. "rate:" .. tenant, "tokens", cost - used)
    end
  end
  if target == "succeeded" and length ~= "" then
    if record[9] then
      local predicted = string.match(record[7], "^%S+ %S+ %S+ %S+ (%S+) %S+$")
      if record[11] then
        learned[#learned + 1] = id
        length_of[#learned] = length
      end
      length = predicted .. " " .. length .. " " .. record[9]
        .. (record[11] and " " .. record[11] or "") .. at_s
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
    local has_output = attempt > 1 or emitted > 0 or from <= pieces_to
    end_job(queue, id, target, now, error_json, tenant, attempt, has_output, fields, usage)
    return target
  end

  redis.call("HSET", job, "done", nonce .. " " .. target, "state", target,
    "runs", attempt .. " " .. (outcome == "retry" and spent or spent - 1), unpack(fields))
  redis.call("HINCRBY", queue.meta, outcome == "retry" and "retried" or "released", 1)
  if target == "scheduled" then
    redis.call("ZADD", queue.delayed, now + delay_ms, id)
    hold(queue, tenant, 1)
  else
    enter(queue, id, tenant, due_again(queue, job, since, slack, offset), since, cost)
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
on_many("ZREM", queue.leases, released)
-- The view of an answer becomes evidence in the step that ends its job, so that no acknowledged
-- answer is lost to the learner.
for first = 1, #learned, 500 do
  local upto, found = math.min(first + 499, #learned), {}
  local views = redis.call("HMGET", queue.views, unpack(learned, first, upto))
  for i = first, upto do
    local view = views[i - first + 1]
    if view then
      found[#found + 1] = learned[i] .. " " .. string.match(length_of[i], "^%d+") .. " " .. view
    end
  end
  if #found > 0 then
    redis.call("HINCRBY", queue.meta, "evidence", #found)
    if redis.call("LPUSH", evidence, unpack(found)) > 10200 then
      redis.call("LTRIM", evidence, 0, 9999)
    end
  end
end
if #answered > 0 and on_many("LPUSH", lengths, answered) > 320 then
  redis.call("LTRIM", lengths, 0, 255)
end
write_ends(queue)
return answers
