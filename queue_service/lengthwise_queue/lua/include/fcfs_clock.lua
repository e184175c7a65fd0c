-- What first come first served would have done. The same work is done in whatever order, so it
-- would have begun a job when the cost that left the line reached the cost that was ahead of it
-- when it came: its mark. One entry "mark since id" per job, oldest first.
local function mark(line, id, since, cost, backlog, gone)
  redis.call("RPUSH", line.fcfs, string.format("%.0f %.3f %s", gone + backlog - cost, since, id))
end

-- Resolve at most `most` jobs whose mark is at most `gone`; their waits, ms. `mine[id]` are claimed
-- just now.
local function resolve(line, gone, now, mine, most)
  local waits = {}
  for _, entry in ipairs(redis.call("LRANGE", line.fcfs, 0, most - 1)) do
    local at, since, id = string.match(entry, "^(%S+) (%S+) (.*)$")
    if tonumber(at) > gone then
      break
    end
    local wait = string.format("%.3f", math.max(0, now - since))
    local job = line.prefix .. "job:" .. id
    waits[#waits + 1] = wait
    if mine[id] or redis.call("EXISTS", job) == 1 then
      redis.call("HSET", job, "fcfs_wait_ms", wait)
    end
  end
  if #waits > 0 then
    redis.call("LPOP", line.fcfs, #waits)
  end
  return waits
end
