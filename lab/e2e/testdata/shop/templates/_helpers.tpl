{{- define "shop.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}
{{- define "shop.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{ include "shop.selector" . }}
{{- end }}
{{- /* A Job of busybox at some point of a release's life: dict "root" . "hook" "pre-install" "weight" "-5" "policy" "…" "run" "…" */}}
{{- define "shop.hook" -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .root.Release.Name }}-{{ .hook }}
  labels: {{- include "shop.labels" .root | nindent 4 }}
  annotations:
    helm.sh/hook: {{ .hook }}
    helm.sh/hook-weight: {{ .weight | default "0" | quote }}
    {{- with .policy }}
    helm.sh/hook-delete-policy: {{ . }}
    {{- end }}
spec:
  backoffLimit: 0
  template:
    metadata:
      labels: {app.kubernetes.io/component: hook}
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 1
      containers:
      - name: hook
        image: busybox
        command: [sh, -ec, {{ .run | quote }}]
        {{- with .from }}
        envFrom: [{configMapRef: {name: {{ . }}}}]
        {{- end }}
{{- end }}
