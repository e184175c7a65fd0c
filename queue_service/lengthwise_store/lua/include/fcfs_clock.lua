-- What first come first served would have done. The same work is done in whatever order, so it
-- would have begun a job when the cost that left the line reached the cost that was ahead of it
-- when it came: its mark. One entry "mark since id" per job, oldest first.
local function mark(line, id, since, cost, backlog, gone)
  redis.call("RPUSH", line.fcfs, string.format("%.0f %.3f %s", gone + backlog - cost, since, id))
end

-- Resolve at most `most` jobs whose mark is at most `gone`. The wait of one that is claimed just now,
-- `mine[id]`, is set there, ms, and its claim writes it. Twice as many are read as a page has only
-- where a whole page was resolved, which is rare.
local function resolve(line, gone, now, mine, most)
  local count, waits, sum, page, more = 0, 0, 0, math.ceil(most / 2), true
  while more and count < most do
    local entries = redis.call("LRANGE", line.fcfs, count, count + page - 1)
    more = #entries == page
    for i = 1, #entries do
      local at, since, id = string.match(entries[i], "^(%S+) (%S+) (.*)$")
      if tonumber(at) > gone then
        more = false
        break
      end
      -- Rounded, and a number: string.format costs the server more than the rest of this loop.
      local wait = math.floor(math.max(0, now - since) * 1000 + 0.5) / 1000
      count = count + 1
      local told = true
      if mine[id] then
        mine[id] = wait
      else
        local job = line.prefix .. "job:" .. id
        local state, started = unpack(redis.pcall("HMGET", job, "state", "started_ms"))
        -- One that left the line unserved has no wait of ours to be compared with.
        told = started or state ~= "expired" and state ~= "cancelled"
        if state and told then
          redis.call("HSET", job, "fcfs_wait_ms", wait)
        end
      end
      if told then
        waits, sum = waits + 1, sum + wait
      end
    end
  end
  if count > 0 then
    redis.call("LPOP", line.fcfs, count)
    redis.call("HINCRBY", line.meta, "fcfs_waits", waits)
    redis.call("HINCRBY", line.meta, "fcfs_wait_ms", string.format("%.0f", sum))
  end
end
