-- The waits under first come first served. Every order does the same work, so that order would have
-- started a job when the cost that left the queue reached the cost that was ahead of the job at its
-- acceptance: its mark. One entry "mark since id" per job, oldest first.
local function mark(queue, id, since, cost, backlog, gone)
  redis.call("RPUSH", queue.fcfs, string.format("%.0f %.3f %s", gone + backlog - cost, since, id))
end

-- Resolve at most `most` jobs whose mark is at most `gone`. If this call claims a job, its wait, ms,
-- is set in `claimed[id]`, and the claim writes it. A second page is read only if the whole first
-- page was resolved, which is rare.
local function resolve(queue, gone, now, claimed, most)
  local count, waits, sum, page, more = 0, 0, 0, math.ceil(most / 2), true
  while more and count < most do
    local entries = redis.call("LRANGE", queue.fcfs, count, count + page - 1)
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
      local counts = true
      if claimed[id] then
        claimed[id] = wait
      else
        local job = queue.prefix .. "job:" .. id
        local state, started = unpack(redis.pcall("HMGET", job, "state", "started_ms"))
        -- A job that left the queue unserved has no real wait to compare with.
        counts = started or state ~= "expired" and state ~= "cancelled"
        if state and counts then
          redis.call("HSET", job, "fcfs_wait_ms", wait)
        end
      end
      if counts then
        waits, sum = waits + 1, sum + wait
      end
    end
  end
  if count > 0 then
    redis.call("LPOP", queue.fcfs, count)
    redis.call("HINCRBY", queue.meta, "fcfs_waits", waits)
    redis.call("HINCRBY", queue.meta, "fcfs_wait_ms", string.format("%.0f", sum))
  end
end
