{{- define "idlewild-hub.gateway.labels" -}}
app.kubernetes.io/name: idlewild-gateway
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: idlewild
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}
