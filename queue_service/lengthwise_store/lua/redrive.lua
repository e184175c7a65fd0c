--[[
redrive: failed -> queued

Queue a dead letter again, as if it were submitted now: with all its attempts and its old price.
Its old output is deleted. The attempt number keeps counting, so a reader sees a new attempt.

KEYS  the queue's (include/queue.lua), then
  job   hash    this job's record
  body  string  this job's request body
  out   stream  this job's output
ARGV  the queue's, then
  id
RETURNS
  the state of the job now, "unknown", or "unreadable": it cannot be served again
]]
--@include queue
--@include record
--@include tenant_queue
--@include fcfs_clock
local job, body, out = unpack(KEYS, 12, 14)
local id = unpack(ARGV, 5, 5)

local record = redis.pcall("HMGET", job, "state", "tenant", "times", "price", "plan", "runs")
if record.err then
  return "unreadable"
end
if record[1] ~= "failed" then
  return record[1] or "unknown"
end
local cost, _, slack, offset = read_price(record[4])
local since, deadline = read_times(record[3])
local attempt = read_runs(record[6])
if not (record[2] and record[5] and cost and since and attempt) or redis.call("EXISTS", body) == 0 then
  return "unreadable"
end
local meta = redis.call("HMGET", queue.meta, "active", "served")
local due = now + ((meta[1] or "sjf") == "sjf" and slack or offset)
deadline = now + deadline - since
redis.call("HSET", job, "state", "queued", "runs", attempt .. " 0", "due_ms", ms(due),
  "times", string.match(record[3], "^%S+") .. " " .. ms(now) .. " " .. ms(deadline))
redis.call("HDEL", job, "error", "finished_ms", "cancel", "done", "nonce", "usage")
redis.call("PERSIST", job)
redis.call("PERSIST", body)
redis.call("DEL", out)
redis.call("ZREM", queue.prefix .. "dead:" .. record[2], id)
redis.call("ZADD", queue.deadlines, deadline, id)
redis.call("HINCRBY", queue.meta, "redriven", 1)
local backlog = enter(queue, id, record[2], due, now, cost)
mark(queue, id, now, cost, backlog, meta[2] or 0)
return "queued"
