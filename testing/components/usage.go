package components

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// CPU is the CPU seconds that a process has taken so far, from /proc; 0 where that isn't there, as once it has ended.
func CPU(pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	ticks := 0.0
	for _, i := range []int{11, 12} { // utime and stime, behind the name
		v, _ := strconv.ParseFloat(fields[i], 64)
		ticks += v
	}
	return ticks / 100
}

// Resident is the memory of processes in MiB, from /proc; 0 for those that aren't there.
func Resident(pids ...int) (all float64) {
	for _, pid := range pids {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		if fields := bytes.Fields(text); len(fields) > 1 {
			pages, _ := strconv.Atoi(string(fields[1]))
			all += float64(pages*os.Getpagesize()) / (1 << 20)
		}
	}
	return all
}
