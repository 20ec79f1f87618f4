package gbdt

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/millrace-ml/millrace/models"
	"github.com/millrace-ml/millrace/models/internal/tree"
)

// xgboost is the part of XGBoost's JSON model that scoring needs, in the form of versions 1.0 to
// 3.2 (its doc/model.schema). Numbers of parameters are strings there.
type xgboost struct {
	Learner struct {
		FeatureNames []string `json:"feature_names"`
		Booster      struct {
			Name  string `json:"name"`
			Model struct {
				Trees []xgboostTree `json:"trees"`
			} `json:"model"`
		} `json:"gradient_booster"`
		Param struct {
			BaseScore  json.RawMessage `json:"base_score"`
			NumClass   string          `json:"num_class"`
			NumFeature string          `json:"num_feature"`
			NumTarget  string          `json:"num_target"`
		} `json:"learner_model_param"`
		Objective struct {
			Name string `json:"name"`
		} `json:"objective"`
	} `json:"learner"`
}

type xgboostTree struct {
	Left        []int32   `json:"left_children"`
	Right       []int32   `json:"right_children"`
	Feature     []int32   `json:"split_indices"`
	Value       []float32 `json:"split_conditions"`
	DefaultLeft []flag    `json:"default_left"`
	SplitType   []int32   `json:"split_type"`
	LossChanges []float32 `json:"loss_changes"`
}

// flag is 0 or 1 in newer versions, false or true in older ones.
type flag bool

func (f *flag) UnmarshalJSON(b []byte) error {
	switch string(b) {
	case "1", "true":
		*f = true
	case "0", "false":
		*f = false
	default:
		return fmt.Errorf("%.20q is not a flag", b)
	}
	return nil
}

// LoadXGBoost reads a model that XGBoost saved as JSON: booster gbtree, objective binary:logistic
// or reg:squarederror, splits on numbers. All of its trees score, as Booster.predict does; a model
// that stopped early keeps the trees after its best one unless they were sliced off before saving.
// Columns without names are called f0, f1 and so on, as XGBoost calls them. It returns
// models.ErrFiles for anything else.
func LoadXGBoost(b []byte) (*Model, error) {
	m, err := loadXGBoost(b)
	if err != nil {
		return nil, fmt.Errorf("loading XGBoost model: %w", err)
	}
	return m, nil
}

func loadXGBoost(b []byte) (*Model, error) {
	var x xgboost
	if err := json.Unmarshal(b, &x); err != nil {
		return nil, errors.Join(err, models.ErrFiles)
	}
	l := &x.Learner
	m := &Model{}
	switch l.Objective.Name {
	case "binary:logistic":
		m.loss = Logistic
	case "reg:squarederror":
		m.loss = Squared
	default:
		return nil, fmt.Errorf("objective %.40q is neither binary:logistic nor reg:squarederror: %w", l.Objective.Name, models.ErrFiles)
	}
	if l.Booster.Name != "gbtree" {
		return nil, fmt.Errorf("booster %.40q is not gbtree: %w", l.Booster.Name, models.ErrFiles)
	}
	if c, t := l.Param.NumClass, l.Param.NumTarget; c != "" && c != "0" && c != "1" || t != "" && t != "1" {
		return nil, fmt.Errorf("%.20q classes and %.20q targets, expected one score: %w", c, t, models.ErrFiles)
	}
	var err error
	if m.base, err = baseScore(l.Param.BaseScore, m.loss); err != nil {
		return nil, err
	}
	// The number of features is the only number that stands for memory not in the file.
	n, err := strconv.Atoi(l.Param.NumFeature)
	if err != nil || n < 0 || n > max(len(b), 4096) {
		return nil, fmt.Errorf("%.20q features: %w", l.Param.NumFeature, models.ErrFiles)
	}
	if len(l.FeatureNames) != 0 && len(l.FeatureNames) != n {
		return nil, fmt.Errorf("%d names for %d features: %w", len(l.FeatureNames), n, models.ErrFiles)
	}
	m.inputs, m.gains = make([]models.Feature, n), make([]float64, n)
	for i := range m.inputs {
		m.inputs[i] = models.Feature{Name: "f" + strconv.Itoa(i), Type: models.Number}
		if len(l.FeatureNames) > 0 {
			m.inputs[i].Name = l.FeatureNames[i]
		}
	}
	if err := tree.CheckInputs(m.inputs); err != nil {
		return nil, err
	}
	for i, t := range l.Booster.Model.Trees {
		nodes, err := t.nodes(m.gains)
		if err == nil {
			err = m.trees.Append(nodes, n)
		}
		if err != nil {
			return nil, fmt.Errorf("tree %d: %w", i, err)
		}
	}
	return m, nil
}

// baseScore reads "0.5", 0.5 or "[5E-1]", and brings a probability to log odds.
func baseScore(raw json.RawMessage, loss string) (float64, error) {
	s := strings.Trim(string(bytes.TrimSpace(raw)), `"`)
	s = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")
	v, err := strconv.ParseFloat(s, 64)
	switch {
	case err != nil || math.IsNaN(v) || math.IsInf(v, 0):
		return 0, fmt.Errorf("base score %.40q is not one number: %w", raw, models.ErrFiles)
	case loss == Squared:
		return v, nil
	case v <= 0 || v >= 1:
		return 0, fmt.Errorf("base score %v is not a probability: %w", v, models.ErrFiles)
	}
	return math.Log(v / (1 - v)), nil
}

// nodes brings the reachable nodes into our order, children in pairs behind their parent, and adds
// up the splits' gains. A node met twice is a cycle or a shared branch.
func (t xgboostTree) nodes(gains []float64) ([]tree.Node, error) {
	n := len(t.Left)
	if n == 0 || len(t.Right) != n || len(t.Feature) != n || len(t.Value) != n || len(t.DefaultLeft) != n {
		return nil, fmt.Errorf("columns empty or of unequal length: %w", models.ErrFiles)
	}
	met := make([]bool, n)
	met[0] = true
	order := append(make([]int32, 0, n), 0) // XGBoost's number of each of our nodes
	nodes := make([]tree.Node, 0, n)
	for i := 0; i < len(order); i++ {
		at := order[i]
		left, right := t.Left[at], t.Right[at]
		if left == -1 && right == -1 {
			nodes = append(nodes, tree.Node{Feature: tree.Leaf, Value: t.Value[at]})
			continue
		}
		if int(at) < len(t.SplitType) && t.SplitType[at] != 0 {
			return nil, fmt.Errorf("node %d splits on a category, expected a number: %w", at, models.ErrFiles)
		}
		feature := t.Feature[at]
		if feature < 0 || int(feature) >= len(gains) {
			return nil, fmt.Errorf("node %d: unknown feature %d: %w", at, feature, models.ErrFiles)
		}
		for _, child := range []int32{left, right} {
			if child < 0 || int(child) >= n || met[child] {
				return nil, fmt.Errorf("node %d: child %d is missing or met before: %w", at, child, models.ErrFiles)
			}
			met[child] = true
		}
		nodes = append(nodes, tree.Node{
			Feature: feature, Left: int32(len(order)),
			Value: t.Value[at], MissingLeft: bool(t.DefaultLeft[at]),
		})
		if int(at) < len(t.LossChanges) {
			gains[feature] += float64(t.LossChanges[at])
		}
		order = append(order, left, right)
	}
	return nodes, nil
}
