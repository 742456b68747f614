package autoscale

import (
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 2, 4, 10, 30, 0, 0, time.UTC) // a Wednesday

// every30 are samples up to now, the last one first in the list given.
func every30(v ...float64) *Series {
	s := &Series{Period: 30 * time.Second}
	for i := len(v) - 1; i >= 0; i-- {
		s.Samples = append(s.Samples, Sample{now.Add(-time.Duration(i) * 30 * time.Second), v[i]})
	}
	return s
}

func env(series map[string]*Series) Env {
	return Env{Now: now, Series: func(n string) *Series { return series[n] }, Rand: func() float64 { return 0.25 }, TargetDedicated: 3, TargetLowPriority: 1}
}

func TestFormulas(t *testing.T) {
	series := map[string]*Series{"$ActiveTasks": every30(8, 6, 4, 2), "$PendingTasks": every30(10, 10, 10, 10, 10, 10, 10, 10, 10, 10), "$CPUPercent": every30(0.5, 0.9)}
	for _, c := range []struct{ formula, want string }{
		{"", "$TargetDedicatedNodes=3;$TargetLowPriorityNodes=1;$NodeDeallocationOption=requeue"},
		{"$TargetDedicatedNodes = 2 + 3 * 4 - 10 / 4;", "$TargetDedicatedNodes=12;"},
		{"$TargetDedicated=4; $TargetDedicatedNodes=5", "$TargetDedicatedNodes=5;"},
		{"$TargetDedicated=4", "$TargetDedicatedNodes=4;"},
		{"$TargetDedicatedNodes = $TargetDedicatedNodes + 1", "$TargetDedicatedNodes=4;"},
		{"$TargetLowPriorityNodes = -7", "$TargetLowPriorityNodes=0;"},
		{"$NodeDeallocationOption = taskcompletion;", "$NodeDeallocationOption=taskcompletion"},
		{"a = 1 < 2; b = !a; c = a && b || 1; d = a ? b ? 1 : 2 : 3", "$a=1;$b=0;$c=1;$d=2"},
		{"v = $ActiveTasks.GetSample(2); m = max(v); s = sum(v, 1); l = len(v); x = val(v, 0); a = avg($ActiveTasks.GetSample(4))", "$v=[6,8];$m=8;$s=15;$l=2;$x=6;$a=5"},
		{"m = max($ActiveTasks.GetSample(1), 9)", "$m=9"},
		{"p = $ActiveTasks.GetSamplePercent(TimeInterval_Minute * 5)", "$p=40"},
		{"p = $PendingTasks.GetSamplePercent(180 * TimeInterval_Second)", "$p=100"},
		{"x = avg($PendingTasks.GetSample(180 * TimeInterval_Second, 70))", "$x=10"},
		{"x = len($PendingTasks.GetSample(TimeInterval_Minute * 3, TimeInterval_Minute * 1))", "$x=5"},
		{"x = $ActiveTasks + 1; y = $ActiveTasks", "$x=9;$y=8"},
		{"x = $ActiveTasks.Count(); y = $ActiveTasks.HistoryBeginTime(); z = $ActiveTasks.GetSamplePeriod()", "$x=4;$y=2026-02-04T10:28:30.000Z;$z=30s"},
		{"t = time(); h = t.hour; d = t.weekday; m = time(\"2026-03-01T00:00:00Z\").month; b = time() > time(\"2020-01-01\")", "$h=10;$d=3;$m=3;$b=1"},
		{"d = time() - time(\"2026-02-04T10:00:00Z\"); e = d == TimeInterval_Minute * 30; f = d / TimeInterval_Minute", "$d=30m0s;$e=1;$f=30"},
		{"v = $ActiveTasks.GetSample(2) * 2; w = 10 - $ActiveTasks.GetSample(2)", "$v=[12,16];$w=[4,2]"},
		{"a = std(1,3); b = norm(3,4); c = range(2,9); d = percentile($ActiveTasks.GetSample(4), 50); e = lg(8); f = ln(1); g = log(100)", "$a=1;$b=5;$c=7;$d=5;$e=3;$f=0;$g=2"},
		{"a = ceil(1.2); b = floor(1.8); c = round(1.5); d = rand()", "$a=2;$b=1;$c=2;$d=0.25"},
		{"a = 1; $TargetDedicatedNodes = 9; stop(); $TargetDedicatedNodes = 1", "$TargetDedicatedNodes=9;"},
		{"// nothing\n a = 1; /* b = 2; */ c = 3", "$a=1;$c=3"},
		{"$curTime = time(); $workHours = $curTime.hour >= 8 && $curTime.hour < 18; $isWeekday = $curTime.weekday >= 1 && $curTime.weekday <= 5; " +
			"$TargetDedicatedNodes = $workHours && $isWeekday ? 20:10;", "$TargetDedicatedNodes=20;"},
		// As in Azure's own text, with its usual guard.
		{`startingNumberOfVMs = 1; maxNumberofVMs = 25;
pendingTaskSamplePercent = $PendingTasks.GetSamplePercent(180 * TimeInterval_Second);
pendingTaskSamples = pendingTaskSamplePercent < 70 ? startingNumberOfVMs : avg($PendingTasks.GetSample(180 * TimeInterval_Second));
$TargetDedicatedNodes=min(maxNumberofVMs, pendingTaskSamples); $NodeDeallocationOption = taskcompletion;`, "$TargetDedicatedNodes=10;"},
	} {
		f, err := Parse(c.formula)
		if err != nil {
			t.Errorf("%q: %v", c.formula, err)
			continue
		}
		r, err := f.Evaluate(env(series))
		if err != nil || !strings.Contains(r.Text+";", strings.TrimSuffix(c.want, ";")+";") {
			t.Errorf("%q\n gave %s %v\n want %s", c.formula, r.Text, err, c.want)
		}
	}
}

func TestMistakes(t *testing.T) {
	series := map[string]*Series{"$ActiveTasks": every30(8)}
	for _, c := range []struct{ formula, want string }{
		{"$TargetDedicatedNodes = ", "Line 1, Col 25"},
		{"a = 1\nb = 2", "Line 2, Col 1: Unexpected 'b'; ';' is expected."},
		{"a = b", "The variable 'b' has no value here."},
		{"a = nothing(1)", "There is no function 'nothing'."},
		{"$ActiveTasks = 1", "$ActiveTasks is read-only."},
		{"a = 1 / 0", "Division by zero."},
		{"a = 1 + TimeInterval_Hour", "cannot be applied to double and timeinterval"},
		{"a = $CPUPercent.GetSample(1)", "Insufficient data from data set: $CPUPercent wanted 100%, received 0%"},
		{"a = $ActiveTasks.GetSample(TimeInterval_Minute * 5, 70)", "Insufficient data from data set: $ActiveTasks wanted 70%, received 10%"},
		{"a = \"x", "The string has no end."},
		{"a = 5 @ 3", "Unexpected character '@'."},
		{"a = time(\"yesterday\")", "'yesterday' is not a time"},
		{"max(1)", "A statement must be an assignment"},
		{"$NodeDeallocationOption = 4", "must be requeue"},
		{"requeue = 4", "is a word of the language"},
		{"a = 1e999", "is not a number"},
		{"$TargetDedicatedNodes = 2000000", "at most 1000000"},
		{"a = ln(0)", "The result is not a number."},
		{strings.Repeat("a=1;", 101), "more than 100 statements"},
		{strings.Repeat(" ", 8193), "at most 8192"},
		{"a = " + strings.Repeat("(", 200) + "1" + strings.Repeat(")", 200), "nested too deeply"},
		{"a = " + strings.Repeat("-", 200) + "1", "nested too deeply"},
	} {
		f, err := Parse(c.formula)
		if err == nil {
			var r Result
			r, err = f.Evaluate(env(series))
			if err != nil && (r.TargetDedicated != 3 || r.TargetLowPriority != 1) {
				t.Errorf("%q changed the targets although it failed", c.formula)
			}
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.formula, err, c.want)
		}
	}
}

func FuzzFormula(f *testing.F) {
	for _, s := range []string{"$TargetDedicatedNodes = max(0, avg($ActiveTasks.GetSample(TimeInterval_Minute*5, 50)));", "a=1?2:3;stop()", "x=time().weekday", "// c\n/* d */ a = \"s\" == 'x'", "v=$CPUPercent.GetSample(3)*2;w=val(v,0)", "a=1e5;b=-!--1"} {
		f.Add(s)
	}
	series := map[string]*Series{"$ActiveTasks": every30(8, 6, 4, 2), "$CPUPercent": every30(0.5)}
	f.Fuzz(func(t *testing.T, s string) {
		formula, err := Parse(s)
		if err != nil {
			return
		}
		r, err := formula.Evaluate(env(series))
		if r.TargetDedicated < 0 || r.TargetDedicated > maxTarget || r.TargetLowPriority < 0 || !words[r.Option] {
			t.Errorf("%q gave %+v %v", s, r, err)
		}
	})
}
