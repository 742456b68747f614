package batchcore

import (
	"bufio"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestFollowAFile: a reader who asks for the output of a task before it runs gets
// each line soon after it is written, and the end with the task's.
func TestFollowAFile(t *testing.T) {
	c, _ := realSetup(t)
	base, end := c.serve(everybody{})
	defer end()
	c.addJob("j", "p", nil)
	c.addTask("j", "t", `/bin/sh -c 'for i in 1 2 3 4; do echo $i $(date +%s%N); sleep 0.3; done; echo end'`, nil)
	type line struct {
		text string
		at   time.Time
	}
	lines := make(chan line, 64)
	go func() {
		defer close(lines)
		resp := c.get(base + "/jobs/j/tasks/t/files/stdout.txt?follow=true&" + version)
		defer resp.Body.Close()
		if resp.StatusCode != 200 || resp.Header.Get("millpond-follow") != "true" || resp.ContentLength >= 0 {
			t.Errorf("%d %v", resp.StatusCode, resp.Header)
		}
		for s := bufio.NewScanner(resp.Body); s.Scan(); {
			lines <- line{s.Text(), time.Now()}
		}
	}()
	c.addPool("p", 1, nil)
	var got []string
	worst := time.Duration(0)
	for deadline := time.After(60 * time.Second); ; {
		select {
		case l, more := <-lines:
			if !more {
				if strings.Join(got, " ") != "1 2 3 4 end" {
					t.Errorf("followed %v", got)
				}
				t.Logf("a line is read at most %s after it was written", worst)
				if worst > 10*time.Second {
					t.Errorf("%s behind", worst)
				}
				resp := c.get(base+"/jobs/j/tasks/t/files/stdout.txt?follow=true&"+version, "ocp-range", "bytes=2-")
				defer resp.Body.Close()
				if s := bufio.NewScanner(resp.Body); !s.Scan() || strings.HasPrefix(s.Text(), "1 ") {
					t.Errorf("from byte 2: %q", s.Text())
				}
				resp = c.get(base + "/jobs/j/tasks/t/files/none?follow=true&" + version)
				if resp.Body.Close(); resp.StatusCode != 404 {
					t.Errorf("a file that never comes: %d", resp.StatusCode)
				}
				resp = c.get(base + "/pools/p/nodes/" + string(c.list("p")[0].ID) + "/files/workitems/j/job-1/t/stdout.txt?follow=true&" + version)
				if resp.Body.Close(); resp.StatusCode != 200 {
					t.Errorf("by the node: %d", resp.StatusCode)
				}
				return
			}
			word, when, _ := strings.Cut(l.text, " ")
			got = append(got, word)
			if ns, err := strconv.ParseInt(when, 10, 64); err == nil {
				worst = max(worst, l.at.Sub(time.Unix(0, ns)))
			}
		case <-deadline:
			t.Fatalf("followed %v for a minute", got)
		}
	}
}
