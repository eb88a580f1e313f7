package lab_test

import (
	"fmt"
	"net/http"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"every.channel/runner-images/internal/lab"
)

// Several at once are what parallel packages do.
func TestStartGitea(t *testing.T) {
	t.Parallel()
	for i := range 3 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			gitea := lab.StartGitea(t)
			repository := gitea.CreateRepository(t, "images", true)
			assert.Equal(t, "adm/images", repository)

			var branch struct{ Name string }
			require.Equal(t, http.StatusOK, gitea.API(t, http.MethodGet, "/repos/"+repository+"/branches/main", nil, &branch))
			assert.Equal(t, "main", branch.Name)

			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, gitea.URL+"/api/v1/repos/"+repository, nil)
			require.NoError(t, err)
			request.Header.Set("Authorization", "token "+gitea.Token(t, "read:repository"))
			response, err := http.DefaultClient.Do(request)
			require.NoError(t, err)
			require.NoError(t, response.Body.Close())
			assert.Equal(t, http.StatusOK, response.StatusCode)
		})
	}
}

func TestGiteaEndsWithItsTest(t *testing.T) {
	t.Parallel()
	var pid int
	t.Run("test", func(t *testing.T) { pid = lab.StartGitea(t, lab.WithActions()).PID })
	assert.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH)
}
