-- What first come first served would have done. The same work is done in whatever order, so it
-- would have begun a job when the cost that left the line reached the cost that was ahead of it
-- when it came: its mark. One entry "mark since id" per job, oldest first.
local function mark(line, id, since, cost, backlog, gone)
  redis.call("RPUSH", line.fcfs, string.format("%.0f %.3f %s", gone + backlog - cost, since, id))
end

-- Resolve the jobs whose mark is at most `gone`; their waits, ms. `mine` is written by the caller.
local function resolve(line, gone, now, mine)
  local waits, own = {}, nil
  for _ = 1, 100 do -- bounded; what is left is resolved by the next claim
    local entry = redis.call("LINDEX", line.fcfs, 0)
    local at, since, id = string.match(entry or "", "^(%S+) (%S+) (.*)$")
    if not at or tonumber(at) > gone then
      break
    end
    redis.call("LPOP", line.fcfs)
    local wait = string.format("%.3f", math.max(0, now - tonumber(since)))
    local job = line.prefix .. "job:" .. id
    if id == mine then
      own = wait
      waits[#waits + 1] = wait
    elseif redis.call("HEXISTS", job, "started_ms") == 1 or redis.call("HGET", job, "state") == "queued" then
      redis.call("HSET", job, "fcfs_wait_ms", wait)
      waits[#waits + 1] = wait
    end
  end
  return waits, own
end
