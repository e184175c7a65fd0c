--[[
cancel: scheduled -> cancelled
cancel: queued -> cancelled
cancel: running -> running

Cancel a job. A running job is flagged: its worker learns it from its next beat or emit, or at once
from the hint on the channel. The job ends as cancelled, and its worker's outcome is ignored.

KEYS  the queue's (include/queue.lua), then
  job      hash  this job's record
  control  pub/sub channel of hints to the workers
ARGV  the queue's, then
  id
RETURNS
  the state that the job is in now, or "unknown"
]]
--@include queue
--@include record
--@include tenant_queue
--@include end_job
local job, control = unpack(KEYS, 12, 13)
local id = unpack(ARGV, 5, 5)

local record = redis.pcall("HMGET", job, "state", "price", "tenant", "runs")
if record.err or not record[3] then -- the next script that meets it makes it a dead letter
  return "unknown"
end
local state = record[1]
if state == "running" then
  redis.call("HSETNX", job, "cancel", "cancelled")
  redis.call("PUBLISH", control, id)
elseif state == "queued" or state == "scheduled" then
  leave(queue, id, record[3], read_price(record[2]) or 0)
  if redis.call("ZREM", queue.delayed, id) == 1 then
    hold(queue, record[3], -1)
  end
  local attempt = read_runs(record[4])
  end_job(queue, id, "cancelled", now, "", record[3], attempt, attempt ~= 0)
  write_ends(queue)
  state = "cancelled"
end
return state or "unknown"
