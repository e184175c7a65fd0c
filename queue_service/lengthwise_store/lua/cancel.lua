--[[
cancel: scheduled -> cancelled
cancel: queued -> cancelled
cancel: running -> running

Withdraw a job. One that runs is flagged, and its worker hears of it at its next beat or emit, or
at once by the hint on the channel; it ends as cancelled, whatever its worker says then.

KEYS  the line's (include/line.lua), then
  job      hash  this job's record
  control  pub/sub channel of hints to the workers
ARGV  the line's, then
  id
RETURNS
  the state that the job is in now, or "unknown"
]]
--@include line
--@include record
--@include tenant_line
--@include end_job
local job, control = unpack(KEYS, 12)
local id = unpack(ARGV, 5)

local record = redis.call("HMGET", job, "state", "price", "tenant", "runs")
local state = record[1]
if state == "running" then
  redis.call("HSETNX", job, "cancel", "cancelled")
  redis.call("PUBLISH", control, id)
elseif state == "queued" or state == "scheduled" then
  leave(line, id, record[3], read_price(record[2]) or 0)
  if redis.call("ZREM", line.delayed, id) == 1 then
    hold(line, record[3], -1)
  end
  local attempt = read_runs(record[4])
  end_job(line, id, "cancelled", now, "", record[3], attempt, attempt ~= 0)
  settle(line)
  state = "cancelled"
end
return state or "unknown"
