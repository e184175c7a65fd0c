-- A job's record. Values that are written together share one field: a hash of few short fields costs
-- half the server's time of one with thirty (docs/research/experiments.md, "the record").
--   state     of JobState                   tenant  its owner
--   times     "accepted since deadline", ms since the epoch; since: start of its wait (after the delay)
--   price     "cost weight slack_ms offset_ms predicted_tokens predicted_ms"
--   plan      "max_attempts class endpoint policy"
--   runs      "attempt spent": claims so far, and those that count towards max_attempts
--   due_ms    by the policy that is in force
-- and, if they apply: request (the id of the request that submitted it, at most 64 bytes), nonce,
-- worker, charged, emitted, cancel, metered, quantiles, predictor,
-- learning "L<learned>/<young>/<served>" (log tokens), started_ms, first_output_ms, finished_ms,
-- fcfs_wait_ms, usage "prompt output details", error,
-- done "nonce state" of a claim that put the job back.
local SIX = "^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+)$"

-- since, deadline
local function read_times(text)
  local since, deadline = string.match(text or "", "^%S+ (%S+) (%S+)$")
  return tonumber(since or ""), tonumber(deadline or "")
end

-- cost, weight, slack_ms, offset_ms
local function read_price(text)
  local cost, weight, slack, offset = string.match(text or "", SIX)
  return tonumber(cost or ""), tonumber(weight or ""), tonumber(slack or ""), tonumber(offset or "")
end

-- attempt, spent
local function read_runs(text)
  if text == "0 0" then -- most records, without the cost of a match
    return 0, 0
  elseif text == "1 1" then
    return 1, 1
  end
  local attempt, spent = string.match(text or "", "^(%d+) (%d+)$")
  return tonumber(attempt or ""), tonumber(spent or "")
end

local function read_max_attempts(plan)
  return tonumber(string.match(plan or "", "^(%d+) ") or "")
end

local function ms(number)
  return string.format("%.3f", number)
end
