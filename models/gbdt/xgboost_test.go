package gbdt

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/models"
)

// TestXGBoostGoldens compares with what XGBoost 3.2.0 itself predicted for rows with and without
// missing values. The models are 10 trees of depth 3 on synthetic data.
func TestXGBoostGoldens(t *testing.T) {
	t.Parallel()
	var golden map[string]json.RawMessage
	decode(t, "testdata/xgboost_golden.json", &golden)
	var rows [][]*float32
	if err := json.Unmarshal(golden["inputs"], &rows); err != nil {
		t.Fatal(err)
	}
	var x []float32
	for _, row := range rows {
		for _, v := range row {
			if v == nil {
				x = append(x, float32(math.NaN()))
			} else {
				x = append(x, *v)
			}
		}
	}
	for _, name := range []string{"xgboost_logistic", "xgboost_logistic_base", "xgboost_squared"} {
		t.Run(name, func(t *testing.T) {
			b, err := os.ReadFile("testdata/" + name + ".json")
			if err != nil {
				t.Fatal(err)
			}
			m, err := LoadXGBoost(b)
			if err != nil {
				t.Fatal(err)
			}
			if m.Inputs()[3].Name != "d" || m.Trees() != 10 {
				t.Fatalf("inputs %v, %d trees", m.Inputs(), m.Trees())
			}
			var want []float64
			if err := json.Unmarshal(golden[name], &want); err != nil {
				t.Fatal(err)
			}
			got := make([]float32, len(want))
			if err := m.Score(t.Context(), x, len(want), got); err != nil {
				t.Fatal(err)
			}
			for i := range want {
				if d := math.Abs(float64(got[i]) - want[i]); !(d <= 1e-6*max(1, math.Abs(want[i]))) {
					t.Errorf("row %d: %v, XGBoost %v", i, got[i], want[i])
				}
			}
			// The model then lives on in our own form.
			files, err := m.Files()
			if err != nil {
				t.Fatal(err)
			}
			again, err := Load(files)
			if err != nil {
				t.Fatal(err)
			}
			sameScores(t, m, again, x)
		})
	}
}

func decode(t *testing.T, name string, v any) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}

func xgboostJSON(tree string) string {
	return `{"learner":{"feature_names":[],"gradient_booster":{"name":"gbtree","model":{"trees":[` + tree + `]}},
	"learner_model_param":{"base_score":"5E-1","num_class":"0","num_feature":"2"},"objective":{"name":"binary:logistic"}}}`
}

func TestLoadXGBoostRefuses(t *testing.T) {
	t.Parallel()
	good := xgboostJSON(`{"left_children":[1,-1,-1],"right_children":[2,-1,-1],"split_indices":[1,0,0],"split_conditions":[0.5,1,2],"default_left":[true,false,false]}`)
	m, err := LoadXGBoost([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if m.Inputs()[1].Name != "f1" {
		t.Errorf("unnamed column is called %q", m.Inputs()[1].Name)
	}
	for name, change := range map[string][2]string{
		"cycle":            {`"left_children":[1,`, `"left_children":[0,`},
		"shared branch":    {`"right_children":[2,`, `"right_children":[1,`},
		"child outside":    {`"right_children":[2,`, `"right_children":[7,`},
		"half a leaf":      {`"right_children":[2,`, `"right_children":[-1,`},
		"unknown feature":  {`"split_indices":[1`, `"split_indices":[2`},
		"negative feature": {`"split_indices":[1`, `"split_indices":[-1`},
		"short column":     {`"split_conditions":[0.5,1,2]`, `"split_conditions":[0.5,1]`},
		"not a flag":       {`[true,`, `[2,`},
		"overflow":         {`[0.5,1,2]`, `[1e99,1,2]`},
		"features":         {`"num_feature":"2"`, `"num_feature":"2000000000"`},
		"names":            {`"feature_names":[]`, `"feature_names":["a"]`},
		"same names":       {`"feature_names":[]`, `"feature_names":["a","a"]`},
		"classes":          {`"num_class":"0"`, `"num_class":"3"`},
		"base score":       {`"5E-1"`, `"[5E-1,5E-1]"`},
		"base score of 1":  {`"5E-1"`, `"1"`},
		"objective":        {`binary:logistic`, `rank:pairwise`},
		"booster":          {`gbtree`, `dart`},
		"category":         {`"default_left"`, `"split_type":[1,0,0],"default_left"`},
		"truncated":        {`"objective"`, ``},
	} {
		bad := strings.Replace(good, change[0], change[1], 1)
		if bad == good {
			t.Fatalf("%s: nothing to change", name)
		}
		if _, err := LoadXGBoost([]byte(bad)); !errors.Is(err, models.ErrFiles) {
			t.Errorf("%s: got %v, expected ErrFiles", name, err)
		}
	}
}

func FuzzLoadXGBoost(f *testing.F) {
	f.Add([]byte(xgboostJSON(`{"left_children":[1,-1,-1],"right_children":[2,-1,-1],"split_indices":[1,0,0],"split_conditions":[0.5,1,2],"default_left":[1,0,0]}`)))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := LoadXGBoost(b)
		if err != nil {
			if !errors.Is(err, models.ErrFiles) {
				t.Fatalf("%v is not ErrFiles", err)
			}
			return
		}
		score(t, m, make([]float32, 3*len(m.Inputs())), 3)
	})
}
