--[[
reprice: queued -> queued
reprice: scheduled -> scheduled

Give a waiting job another price: a prediction that came too late for its submit, or a better one.
It keeps the time since which it waits; only its predicted length changes.

KEYS  the line's (include/line.lua), then
  job  hash  this job's record
ARGV  the line's, then
  id, slack_ms, predicted_tokens, predicted_ms, quantiles, predictor
RETURNS
  {"ok", due_ms} | {state} of a job that no longer waits | {"unknown"}
]]
--@include line
local job = unpack(KEYS, 11)
local id, slack_ms, predicted_tokens, predicted_ms, quantiles, predictor = unpack(ARGV, 5)

local record = redis.call("HMGET", job, "state", "tenant", "cost", "since_ms", "offset_ms")
local state = record[1]
if state ~= "queued" and state ~= "scheduled" then
  return {state or "unknown"}
end
local active = redis.call("HGET", line.meta, "active") or "sjf"
local cost = math.max(1, math.floor(predicted_tokens + 0.5))
local due = record[4] + tonumber(active == "sjf" and slack_ms or record[5])
local due_text = string.format("%.3f", due)
redis.call("HSET", job, "slack_ms", slack_ms, "predicted_tokens", predicted_tokens,
  "predicted_ms", predicted_ms, "quantiles", quantiles, "predictor", predictor, "cost", cost,
  "due_ms", due_text)
redis.call("HINCRBY", line.meta, "repriced", 1)
if state == "queued" then
  redis.call("ZADD", line.prefix .. "ready:" .. record[2], "XX", due, id)
  redis.call("HINCRBY", line.meta, "backlog_tokens", cost - record[3])
end
return {"ok", due_text}
