-- What first come first served would have done. The same work is done in whatever order, so it
-- would have begun a job when the cost that left the line reached the cost that was ahead of it
-- when it came: its mark. One entry "mark since id" per job, oldest first.
local function mark(line, id, since, cost, backlog, gone)
  redis.call("RPUSH", line.fcfs, string.format("%.0f %.3f %s", gone + backlog - cost, since, id))
end

-- Resolve at most `most` jobs whose mark is at most `gone`. The wait of one that is claimed just now
-- joins the fields `mine[id]`, which its claim writes.
local function resolve(line, gone, now, mine, most)
  local count, sum = 0, 0
  for _, entry in ipairs(redis.call("LRANGE", line.fcfs, 0, most - 1)) do
    local at, since, id = string.match(entry, "^(%S+) (%S+) (.*)$")
    if tonumber(at) > gone then
      break
    end
    local wait = math.max(0, now - since)
    count, sum = count + 1, sum + wait
    local fields = mine[id]
    if fields then
      fields[#fields + 1] = "fcfs_wait_ms"
      fields[#fields + 1] = string.format("%.3f", wait)
    else
      local job = line.prefix .. "job:" .. id
      if redis.call("EXISTS", job) == 1 then
        redis.call("HSET", job, "fcfs_wait_ms", string.format("%.3f", wait))
      end
    end
  end
  if count > 0 then
    redis.call("LPOP", line.fcfs, count)
    redis.call("HINCRBY", line.meta, "fcfs_waits", count)
    redis.call("HINCRBY", line.meta, "fcfs_wait_ms", string.format("%.0f", sum))
  end
end
