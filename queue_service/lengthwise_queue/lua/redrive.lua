--[[
redrive: failed -> queued

Give a dead letter a new life: as if it were submitted now, with all its attempts, at the price it
had. Its old output is forgotten; its attempts go on counting, so a new reader sees a new one.

KEYS  the line's (include/line.lua), then
  job   hash    this job's record
  body  string  this job's request body
  out   stream  this job's output
ARGV  the line's, then
  id
RETURNS
  the state that the job is in now, "unknown", or "unreadable": it cannot be served again
]]
--@include line
--@include tenant_line
--@include fcfs_clock
local job, body, out = unpack(KEYS, 11)
local id = unpack(ARGV, 5)

local record = redis.call("HMGET", job, "state", "tenant", "cost", "slack_ms", "offset_ms",
  "since_ms", "deadline_ms", "endpoint", "predicted_tokens")
if record[1] ~= "failed" then
  return record[1] or "unknown"
end
local slack, offset, cost = tonumber(record[4] or ""), tonumber(record[5] or ""), tonumber(record[3] or "")
local since, deadline = tonumber(record[6] or ""), tonumber(record[7] or "")
if not (record[2] and cost and slack and offset and since and deadline and record[8]
  and tonumber(record[9] or "")) or redis.call("EXISTS", body) == 0 then
  return "unreadable"
end
local meta = redis.call("HMGET", line.meta, "active", "served")
local due = now + ((meta[1] or "sjf") == "sjf" and slack or offset)
redis.call("HSET", job, "state", "queued", "spent", 0, "emitted", 0,
  "since_ms", string.format("%.3f", now), "due_ms", string.format("%.3f", due),
  "deadline_ms", string.format("%.3f", now + deadline - since))
redis.call("HDEL", job, "error", "finished_ms", "cancel", "done_nonce", "done_state", "output_tokens")
redis.call("PERSIST", job)
redis.call("PERSIST", body)
redis.call("DEL", out)
redis.call("ZREM", line.prefix .. "dead:" .. record[2], id)
redis.call("ZADD", line.deadlines, now + deadline - since, id)
redis.call("HINCRBY", line.meta, "redriven", 1)
local backlog = enter(line, id, record[2], due, now, cost)
mark(line, id, now, cost, backlog, meta[2] or 0)
return "queued"
