--[[
reprice: queued -> queued
reprice: scheduled -> scheduled

Change the price of a waiting job: its prediction came after its submit, or there is a better one.
The time since which it waits stays; only its predicted length changes.

KEYS  the queue's (include/queue.lua), then
  job  hash  this job's record
ARGV  the queue's, then
  id, cost, slack_ms, predicted_tokens, predicted_ms, quantiles, predictor, learning, view
RETURNS
  {"ok", due_ms} | {state} of a job that no longer waits | {"unknown"}
]]
--@include queue
--@include record
local job = unpack(KEYS, 12, 12)
local id, cost, slack_ms, predicted_tokens, predicted_ms, quantiles, predictor, learning, view =
  unpack(ARGV, 5, 13)

local record = redis.call("HMGET", job, "state", "tenant", "price", "times")
local state = record[1]
if state ~= "queued" and state ~= "scheduled" then
  return {state or "unknown"}
end
local active = redis.call("HGET", queue.meta, "active") or "sjf"
local old_cost, weight, _, offset = string.match(record[3], SIX)
local since = read_times(record[4])
local due_text = ms(since + (active == "sjf" and slack_ms or offset))
redis.call("HSET", job, "quantiles", quantiles, "predictor", predictor, "due_ms", due_text,
  "price", table.concat({cost, weight, slack_ms, offset, predicted_tokens, predicted_ms}, " "))
if learning ~= "" then
  redis.call("HSET", job, "learning", learning)
else
  redis.call("HDEL", job, "learning")
end
if view ~= "" then
  redis.call("HSET", queue.views, id, view)
end
redis.call("HINCRBY", queue.meta, "repriced", 1)
if state == "queued" then
  redis.call("ZADD", queue.prefix .. "ready:" .. record[2], "XX", due_text, id)
  redis.call("HINCRBY", queue.meta, "backlog_tokens", cost - old_cost)
end
return {"ok", due_text}
